use std::os::unix::fs::PermissionsExt as _;

use super::*;

const HEAD: &str = "[environments.test]\nmode = \"enforce\"\n[resources.db]\nkind = \"sqlite\"\npath = \"shop.db\"\n\
    environment = \"test\"\n[resources.work]\nkind = \"files\"\nroot = \"work\"\nenvironment = \"test\"\n[[flags.remote]]\n";

fn read(more: &str) -> Result<Vec<RemoteFlags>, ConfigError> {
    let file = Path::new("/srv/turnback.toml");
    Config::parse(&format!("{HEAD}{more}"), file, file).map(|config| config.remote_flags)
}

#[test]
fn everything_is_read_as_it_is_written() {
    let services = read(
        "url = \"https://flags.example/base/\"\nkeys = [\"release\", \"release.tool.db__execute\", \"release.agent.*\"]\n\
         token_file = \"flags.token\"\ntimeout = \"1s\"\nrefresh = \"30s\"\nstale_after = \"1h\"\n\
         [[flags.remote]]\nurl = \"http://127.0.0.1:8016\"\n",
    )
    .unwrap();
    let [whole, plain] = services.as_slice() else { panic!("{services:?}") };
    assert_eq!(whole.url, "https://flags.example/base");
    let keys: Vec<String> = whole.keys.iter().map(ToString::to_string).collect();
    assert_eq!(keys, ["release", "release.tool.db__execute", "release.agent.*"]);
    assert_eq!(whole.token_file.as_deref(), Some(Path::new("/srv/flags.token")));
    assert_eq!(whole.timeout, Duration::from_secs(1));
    assert_eq!((whole.refresh, whole.stale_after), (SignedDuration::from_secs(30), SignedDuration::from_hours(1)));
    assert_eq!(plain.keys.len(), Wanted::ALL.len());
    assert_eq!(plain.timeout, Duration::from_millis(300));
    assert_eq!((plain.refresh, plain.stale_after), (SignedDuration::from_secs(10), SignedDuration::from_mins(5)));
    for url in ["http://localhost:1", "http://[::1]:1", "http://127.9.9.9"] {
        assert_eq!(read(&format!("url = \"{url}\"\n")).unwrap()[0].url, url);
    }
}

#[test]
fn what_is_wrong_is_named_with_its_place_and_what_to_write() {
    let url = "url = \"https://flags.example\"\n";
    for (text, says, next) in [
        ("url = \"http://flags.example\"\n".into(), "read and changed", "https://"),
        ("url = \"http://localhost.example\"\n".into(), "read and changed", "https://"),
        ("url = \"ftp://flags.example\"\n".into(), "not an HTTP address", "https://"),
        ("url = \"flags.example\"\n".into(), "not an HTTP address", "https://"),
        ("url = \"https://\"\n".into(), "not an HTTP address", "https://"),
        ("url = \"https://fl ags\"\n".into(), "not an address", "https://"),
        ("url = \"https://flags.example?token=s3cret\"\n".into(), "no query", "https://"),
        ("url = \"https://anna:s3cret@flags.example\"\n".into(), "credentials", "token_file"),
        (format!("{url}keys = []\n"), "asked for nothing", "remove `keys`"),
        (format!("{url}keys = [\"relaese\"]\n"), "nobody asks for a flag `relaese`", "name it `release`"),
        (format!("{url}keys = [\"release.environment.prod\"]\n"), "unknown environment `prod`", "use `test`"),
        (format!("{url}keys = [\"release.resource.shop\"]\n"), "unknown resource `shop`", "correct it"),
        (format!("{url}keys = [\"release.tool.db__frobnicate\"]\n"), "unknown tool `db__frobnicate`", "db__execute"),
        (format!("{url}keys = [\"release.agent.a b\"]\n"), "a b", "correct the name"),
        (format!("{url}timeout = \"11s\"\n"), "longer than 10s", "at most"),
        (format!("{url}timeout = \"0s\"\n"), "longer than nothing", "positive"),
        (format!("{url}refresh = \"soon\"\n"), "not a duration", "positive"),
        (format!("{url}stale_after = \"25h\"\n"), "longer than", "at most"),
        (format!("{url}stale_after = \"5s\"\n"), "too old after 5s", "at least as long as `refresh`"),
        (format!("{url}token_file = \"work/token\"\n"), "inside resource `work`", "outside every resource"),
        (format!("{url}retries = 3\n"), "unknown field", "remove"),
        ("keys = [\"release\"]\n".into(), "missing field `url`", "add it"),
        (format!("{url}[[flags.remote]]\n{url}"), "named twice", "once"),
        (
            (0..9).map(|n| format!("url = \"https://f{n}\"\n")).collect::<Vec<_>>().join("[[flags.remote]]\n"),
            "more than 8",
            "remove",
        ),
    ] {
        let error = read(&text).expect_err(&text);
        assert!(error.message().contains(says), "{text}: {}", error.message());
        assert!(error.next().is_some_and(|n| n.contains(next)), "{text}: {:?}", error.next());
        assert!(error.line().is_some_and(|line| line > 10) && error.column().is_some(), "{text}: {}", error.location());
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
    }
}

#[test]
fn a_token_is_one_line_in_a_file_nobody_else_can_open() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let write = |text: &[u8], mode: u32| {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        token(&file)
    };
    assert_eq!(write(b"s3cret-token\n", 0o600).unwrap(), "s3cret-token");
    assert_eq!(write(b"s3cret-token", 0o400).unwrap(), "s3cret-token");
    for (text, mode, says) in [
        (&b"s3cret-token\n"[..], 0o640, "mode 640"),
        (b"s3cret-token\n", 0o604, "mode 604"),
        (b"", 0o600, "one line"),
        (b"s3cret\r\nX-Other: 1\n", 0o600, "one line"),
        (b"s3cret token\n", 0o600, "one line"),
        (b"s3cret\xff\n", 0o600, "cannot be read"),
        (&[b'x'; 5_000], 0o600, "one line"),
    ] {
        let why = write(text, mode).unwrap_err();
        assert!(why.contains(says) && !why.contains("s3cret"), "{why}");
    }
    assert!(token(dir.path()).unwrap_err().contains("not a plain file"));
    assert!(token(&dir.path().join("none")).unwrap_err().contains("cannot be read"));
}
