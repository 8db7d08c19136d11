//! What a statement is, from its first words.
//!
//! Explains, never enforces: the class feeds policy and early refusals, the boundary is SQLite's own
//! parser with an authorizer (`connection.rs`).

use turnback_core::refusal::{Code, Refusal};

use super::watch::is_own;

/// The class of a statement and the table or object it names first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statement {
    /// `select`, `insert`, `drop_table`, ...
    pub(super) class: String,
    /// The object named, empty when it is not obvious.
    pub(super) object: String,
}

impl Statement {
    pub(super) fn reads(&self) -> bool {
        matches!(self.class.as_str(), "select" | "values" | "explain")
    }

    pub(super) fn changes_rows(&self) -> bool {
        matches!(self.class.as_str(), "insert" | "replace" | "update" | "delete")
    }

    pub(super) fn changes_schema(&self) -> bool {
        ["create_", "drop_", "alter_"].iter().any(|p| self.class.starts_with(p))
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// A bare word, lowercased, and as written.
    Word(String, String),
    /// A quoted identifier.
    Name(String),
    /// Between single quotes: a value, but SQLite takes it for a name where only a name fits.
    Text(String),
    Open,
    Close,
    End,
    Other,
}

/// Classifies one statement.
pub(super) fn classify(sql: &str) -> Result<Statement, Refusal> {
    let refuse = |code, why: String| Refusal::new(code, why).at("arguments.sql");
    if sql.contains('\0') {
        return Err(refuse(Code::BadInput, "the text contains a NUL character".into()));
    }
    let tokens = tokens(sql);
    // The body of a trigger or view is compiled when it is used, perhaps on somebody else's connection.
    let ours = |t: &Token| matches!(t, Token::Word(name, _) | Token::Name(name) if is_own(name));
    // A schema statement may write a name as a string, and what it makes is compiled later: by then it
    // would be too late to ask whether it was meant as one.
    let schema = matches!(tokens.first(), Some(Token::Word(w, _)) if ["create", "alter", "drop"].contains(&w.as_str()));
    let quoted = |t: &Token| schema && matches!(t, Token::Text(name) if is_own(name));
    if tokens.iter().any(|t| ours(t) || quoted(t)) {
        return Err(refuse(Code::Unsupported, "names beginning with `_turnback` are Turnback's own".into()));
    }
    let words: Vec<&str> =
        tokens.iter().map(|t| if let Token::Word(lower, _) = t { lower.as_str() } else { "" }).collect();
    let Some(first) = words.first().filter(|_| !matches!(tokens.first(), Some(Token::End))) else {
        return Err(refuse(Code::BadInput, "no SQL statement in it".into()));
    };
    let object_after = |mut at: usize| {
        while matches!(words.get(at), Some(&("if" | "not" | "exists" | "only"))) {
            at += 1;
        }
        let name = |t: Option<&Token>| match t {
            Some(Token::Word(_, written)) => Some(written.clone()),
            Some(Token::Name(name) | Token::Text(name)) => Some(name.clone()),
            _ => None,
        };
        match (name(tokens.get(at)), tokens.get(at + 1), name(tokens.get(at + 2))) {
            (Some(schema), Some(Token::Other), Some(object)) if schema.eq_ignore_ascii_case("main") => object,
            (Some(object), ..) => object,
            _ => String::new(),
        }
    };
    let statement = |class: &str, object: String| Ok(Statement { class: class.to_owned(), object });
    let main = if *first == "with" { main_verb(&tokens) } else { Some(0) };
    let Some(at) = main else {
        return Err(refuse(Code::BadInput, "`WITH` without a statement after it".into()));
    };
    match words.get(at).copied().unwrap_or("") {
        class @ ("select" | "values" | "explain") => statement(class, String::new()),
        class @ ("insert" | "replace") => {
            let into = words.iter().skip(at).position(|w| *w == "into").map_or(at + 1, |i| at + i + 1);
            statement(class, object_after(into))
        }
        "update" => {
            let skip = if words.get(at + 1) == Some(&"or") { 3 } else { 1 };
            statement("update", object_after(at + skip))
        }
        "delete" => statement("delete", object_after(at + 2)),
        verb @ ("create" | "drop" | "alter") => {
            let mut next = at + 1;
            while matches!(words.get(next), Some(&"unique")) {
                next += 1;
            }
            match words.get(next).copied().unwrap_or("") {
                kind @ ("table" | "index" | "view" | "trigger") => {
                    statement(&format!("{verb}_{kind}"), object_after(next + 1))
                }
                "temp" | "temporary" => {
                    Err(refuse(Code::Unsupported, "temporary objects live outside what can be undone".into()))
                }
                "virtual" => Err(refuse(Code::Unsupported, "virtual tables cannot be measured or undone".into())),
                other => Err(refuse(
                    Code::Unsupported,
                    format!("`{verb} {}` is not a statement this domain performs", turnback_core::text::visible(other)),
                )),
            }
        }
        word @ ("attach" | "detach" | "vacuum" | "pragma" | "begin" | "commit" | "end" | "rollback" | "savepoint"
        | "release" | "reindex" | "analyze") => {
            Err(refuse(Code::Unsupported, format!("`{}` is never performed here", word.to_ascii_uppercase()))
                .next("one SELECT, INSERT, UPDATE, DELETE, CREATE, DROP or ALTER; transactions are Turnback's own"))
        }
        _ => Err(refuse(Code::BadInput, "this does not begin like an SQL statement".into())),
    }
}

/// The place of the first main verb outside parentheses, after a `WITH`.
fn main_verb(tokens: &[Token]) -> Option<usize> {
    let mut depth = 0_i32;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Open => depth += 1,
            Token::Close => depth -= 1,
            Token::Word(word, _)
                if depth == 0
                    && matches!(word.as_str(), "select" | "values" | "insert" | "replace" | "update" | "delete") =>
            {
                return Some(at);
            }
            _ => {}
        }
    }
    None
}

fn tokens(sql: &str) -> Vec<Token> {
    let bytes = sql.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    let until = |from: usize, end: &str| sql.get(from..).and_then(|s| s.find(end)).map_or(sql.len(), |i| from + i);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'-' if bytes.get(at + 1) == Some(&b'-') => at = until(at, "\n"),
            b'/' if bytes.get(at + 1) == Some(&b'*') => at = (until(at + 2, "*/") + 2).min(bytes.len()),
            b'\'' | b'"' | b'`' | b'[' => {
                let close = if byte == b'[' { b']' } else { byte };
                let mut text = Vec::new();
                at += 1;
                while let Some(&inner) = bytes.get(at) {
                    at += 1;
                    if inner == close {
                        if close != b']' && bytes.get(at) == Some(&close) {
                            at += 1;
                        } else {
                            break;
                        }
                    }
                    text.push(inner);
                }
                let text = String::from_utf8_lossy(&text).into_owned();
                tokens.push(if byte == b'\'' { Token::Text(text) } else { Token::Name(text) });
            }
            b'(' | b')' | b';' => {
                tokens.push(match byte {
                    b'(' => Token::Open,
                    b')' => Token::Close,
                    _ => Token::End,
                });
                at += 1;
            }
            // SQLite takes a byte order mark for a blank wherever a word could begin. Taken for the beginning
            // of the word it would hide whose name that is.
            0xEF if sql.get(at..).is_some_and(|rest| rest.starts_with('\u{FEFF}')) => at += 3,
            _ if byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80 => {
                let start = at;
                while bytes.get(at).is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_' || *b == b'$' || *b >= 0x80)
                {
                    at += 1;
                }
                let written = sql.get(start..at).unwrap_or_default();
                tokens.push(Token::Word(written.to_ascii_lowercase(), written.to_owned()));
            }
            // A vertical tab too is a blank to SQLite, behind another one.
            _ if byte.is_ascii_whitespace() || byte == 0x0B => at += 1,
            _ => {
                tokens.push(Token::Other);
                at += 1;
            }
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_classified() {
        for (sql, class, object) in [
            ("-- hi\n/* x */ SELECT 1", "select", ""),
            ("update or ignore main.\"Cust omers\" set a=1", "update", "Cust omers"),
            ("DELETE FROM orders", "delete", "orders"),
            ("insert or replace into [t] values (1)", "insert", "t"),
            ("WITH x AS (SELECT 1) DELETE FROM t", "delete", "t"),
            ("WITH d(delete_me) AS (VALUES(1)) SELECT * FROM d", "select", ""),
            ("drop table if exists orders", "drop_table", "orders"),
            ("create unique index i on t(a)", "create_index", "i"),
            ("insert into notes values ('_turnback')", "insert", "notes"),
            ("delete from 'orders'", "delete", "orders"),
            ("ALTER TABLE t ADD COLUMN x", "alter_table", "t"),
            ("\u{feff}drop \u{feff}table \u{feff}\u{feff}orders", "drop_table", "orders"),
            ("delete from \u{b}orders", "delete", "orders"),
        ] {
            let found = classify(sql).unwrap();
            assert_eq!((found.class.as_str(), found.object.as_str()), (class, object), "{sql}");
        }
        for sql in [
            "",
            ";",
            "-- only",
            "ATTACH 'x' AS y",
            "VACUUM INTO 'x'",
            "PRAGMA writable_schema=1",
            "BEGIN",
            "COMMIT",
            "create temp table t(a)",
            "create virtual table t using fts5(a)",
            "REINDEX",
            "ANALYZE",
            "savepoint a",
            "select\0 1",
            "grant all",
            "alter table t rename to '_turnback_marks'",
            "create trigger g after insert on t begin delete from '_TurnBack_marks'; end",
            "create table t (a references '_turnback_marks')",
            "create trigger g after insert on t begin delete from \u{feff}_turnback_marks; end",
            "\u{feff}pragma writable_schema=1",
        ] {
            assert!(classify(sql).is_err(), "{sql:?}");
        }
    }
}
