//! The command line as people meet it: help, wrong usage, wrong configuration.
//!
//! `TRYCMD=overwrite cargo test -p turnback --test cli` writes what is printed now; read the difference.

#[test]
fn what_the_command_line_says() {
    trycmd::TestCases::new().case("tests/cmd/*.trycmd");
}
