//! The tools of this domain, and their arguments made into one closed type.

use std::path::PathBuf;

use serde_json::{Map, Value, json};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::text::visible;
use turnback_core::tool::{Risk, ToolSpec, Verb};

/// Longest path accepted, in bytes: what the kernel takes.
const PATH_LIMIT: usize = 4_095;
/// Longest name in a path, in bytes.
const NAME_LIMIT: usize = 255;

/// One change of a text: `old` must occur exactly once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edit {
    pub(crate) old: String,
    pub(crate) new: String,
}

/// One call, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    ReadFile { path: PathBuf, offset: u64, limit: Option<u64> },
    ListDirectory { path: PathBuf },
    Search { path: PathBuf, text: String, names: bool, contents: bool },
    Stat { path: PathBuf },
    WriteFile { path: PathBuf, content: String },
    EditFile { path: PathBuf, edits: Vec<Edit> },
    Move { from: PathBuf, to: PathBuf },
    Delete { path: PathBuf, recursive: bool },
    MakeDirectory { path: PathBuf, parents: bool },
    SetPermissions { path: PathBuf, mode: u32 },
}

impl Ask {
    /// Reads the arguments of `tool`. Touches nothing.
    pub(crate) fn read(tool: &str, arguments: &Value) -> Result<Self, Refusal> {
        let Value::Object(map) = arguments else {
            return Err(bad("arguments", "an object is expected"));
        };
        let mut args = Arguments { map, known: Vec::new() };
        let ask = match tool {
            "read_file" => Ask::ReadFile {
                path: args.path("path")?,
                offset: args.number("offset")?.unwrap_or(0),
                limit: args.number("limit")?,
            },
            "list_directory" => Ask::ListDirectory { path: args.path_or_root("path")? },
            "search" => {
                let text = args.text("text")?;
                if text.is_empty() {
                    return Err(bad("text", "at least one character is expected"));
                }
                let (names, contents) = match args.optional_text("in")?.as_deref() {
                    None | Some("both") => (true, true),
                    Some("names") => (true, false),
                    Some("contents") => (false, true),
                    Some(_) => return Err(bad("in", "`names`, `contents` or `both` is expected")),
                };
                Ask::Search { path: args.path_or_root("path")?, text, names, contents }
            }
            "stat" => Ask::Stat { path: args.path_or_root("path")? },
            "write_file" => Ask::WriteFile { path: args.new_path("path")?, content: args.text("content")? },
            "edit_file" => Ask::EditFile { path: args.path("path")?, edits: args.edits("edits")? },
            "move" => Ask::Move { from: args.path("from")?, to: args.new_path("to")? },
            "delete" => Ask::Delete { path: args.path("path")?, recursive: args.flag("recursive")? },
            "make_directory" => Ask::MakeDirectory { path: args.new_path("path")?, parents: args.flag("parents")? },
            "set_permissions" => Ask::SetPermissions { path: args.path("path")?, mode: args.mode("mode")? },
            other => {
                return Err(Refusal::new(Code::UnknownTool, "files have no such tool").at(other));
            }
        };
        args.nothing_else()?;
        Ok(ask)
    }

    /// The place it is aimed at.
    pub(crate) fn place(&self) -> String {
        let path = match self {
            Ask::ReadFile { path, .. }
            | Ask::ListDirectory { path }
            | Ask::Search { path, .. }
            | Ask::Stat { path }
            | Ask::WriteFile { path, .. }
            | Ask::EditFile { path, .. }
            | Ask::Move { from: path, .. }
            | Ask::Delete { path, .. }
            | Ask::MakeDirectory { path, .. }
            | Ask::SetPermissions { path, .. } => path,
        };
        super::world::Spot::Root(path.clone()).place()
    }
}

fn bad(field: &str, message: impl Into<String>) -> Refusal {
    Refusal::new(Code::BadInput, message).at(field)
}

struct Arguments<'a> {
    map: &'a Map<String, Value>,
    known: Vec<&'static str>,
}

impl Arguments<'_> {
    fn get(&mut self, field: &'static str) -> Option<&Value> {
        self.known.push(field);
        self.map.get(field)
    }

    fn optional_text(&mut self, field: &'static str) -> Result<Option<String>, Refusal> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(bad(field, "a string is expected")),
        }
    }

    fn text(&mut self, field: &'static str) -> Result<String, Refusal> {
        self.optional_text(field)?.ok_or_else(|| bad(field, "is missing"))
    }

    fn flag(&mut self, field: &'static str) -> Result<bool, Refusal> {
        match self.get(field) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(bad(field, "true or false is expected")),
        }
    }

    fn number(&mut self, field: &'static str) -> Result<Option<u64>, Refusal> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or_else(|| bad(field, "a whole number from 0 is expected")),
        }
    }

    fn mode(&mut self, field: &'static str) -> Result<u32, Refusal> {
        let text = self.text(field)?;
        let digits = (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        let mode = u32::from_str_radix(&text, 8).ok().filter(|_| digits);
        match mode {
            None => Err(bad(field, "three or four octal digits are expected, such as `0644`")),
            Some(mode) if mode & 0o6000 != 0 => {
                Err(Refusal::new(Code::Unsupported, "setuid and setgid are never set").at(field))
            }
            Some(mode) => Ok(mode),
        }
    }

    fn edits(&mut self, field: &'static str) -> Result<Vec<Edit>, Refusal> {
        let Some(Value::Array(list)) = self.get(field) else {
            return Err(bad(field, "a list of {old, new} is expected"));
        };
        let mut edits = Vec::new();
        for (i, item) in list.iter().enumerate() {
            let at = |part: &str| format!("{field}[{i}]{part}");
            let Value::Object(map) = item else { return Err(bad(&at(""), "{old, new} is expected")) };
            if let Some(other) = map.keys().find(|k| *k != "old" && *k != "new") {
                return Err(bad(&at(&format!(".{other}")), "is not an argument of this tool"));
            }
            let text = |part: &str| {
                let value = map.get(part).and_then(Value::as_str);
                value.map(str::to_owned).ok_or_else(|| bad(&at(&format!(".{part}")), "a string is expected"))
            };
            let (old, new) = (text("old")?, text("new")?);
            if old.is_empty() {
                return Err(bad(&at(".old"), "the text to replace is empty"));
            }
            edits.push(Edit { old, new });
        }
        if edits.is_empty() {
            return Err(bad(field, "at least one edit is expected"));
        }
        Ok(edits)
    }

    fn path_or_root(&mut self, field: &'static str) -> Result<PathBuf, Refusal> {
        match self.optional_text(field)? {
            None => Ok(PathBuf::new()),
            Some(text) => path(field, &text),
        }
    }

    fn path(&mut self, field: &'static str) -> Result<PathBuf, Refusal> {
        let text = self.text(field)?;
        let path = path(field, &text)?;
        if path.as_os_str().is_empty() {
            return Err(bad(field, "names the resource itself; a path inside it is expected"));
        }
        Ok(path)
    }

    /// A path something is to appear at: names that could mislead a reader are not made.
    fn new_path(&mut self, field: &'static str) -> Result<PathBuf, Refusal> {
        let path = self.path(field)?;
        let text = path.to_string_lossy();
        let shown = visible(&text);
        if shown != text {
            return Err(bad(field, format!("`{shown}` contains characters that mislead a reader")));
        }
        Ok(path)
    }

    fn nothing_else(&self) -> Result<(), Refusal> {
        match self.map.keys().find(|key| !self.known.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => Err(bad(key, "is not an argument of this tool")
                .next(format!("arguments of this tool: {}", self.known.join(", ")))),
        }
    }
}

/// A path as an agent wrote it. Only plain names pass; the kernel checks what they lead to.
fn path(field: &str, text: &str) -> Result<PathBuf, Refusal> {
    let shown = visible(text);
    let escapes = |why: &str| {
        Err(Refusal::new(Code::Escapes, format!("`{shown}` {why}"))
            .at(field)
            .next("a path relative to the resource is expected, such as `notes/a.txt`"))
    };
    if text.contains('\0') {
        return Err(bad(field, format!("`{shown}` contains a NUL character")));
    }
    if text.starts_with('/') {
        return escapes("is absolute");
    }
    if text.len() > PATH_LIMIT {
        return Err(bad(field, "the path is longer than 4095 bytes"));
    }
    let mut path = PathBuf::new();
    for name in text.split('/') {
        match name {
            "" | "." => {}
            ".." => return escapes("contains `..`"),
            name if name.len() > NAME_LIMIT => {
                return Err(bad(field, format!("`{}` is longer than 255 bytes", visible(name))));
            }
            name => path.push(name),
        }
    }
    Ok(path)
}

fn schema(properties: Value, required: &[&str]) -> Value {
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

/// The tools, as a model sees them.
pub fn tools() -> Vec<ToolSpec> {
    let path = |what: &str| json!({ "type": "string", "description": what });
    let spec = |name, description, verb, risk, schema| ToolSpec { name, description, verb, risk, schema };
    vec![
        spec(
            "read_file",
            "Reads a UTF-8 text file, or a part of it. Symbolic links are never followed.",
            Verb::Read,
            Risk::ScopedRead,
            schema(
                json!({
                    "path": path("relative path of the file"),
                    "offset": { "type": "integer", "minimum": 0, "description": "first byte to return" },
                    "limit": { "type": "integer", "minimum": 0, "description": "most bytes to return" },
                }),
                &["path"],
            ),
        ),
        spec(
            "list_directory",
            "Lists a directory: name, kind, size and mode of each entry.",
            Verb::Search,
            Risk::Search,
            schema(json!({ "path": path("relative path of the directory; the whole resource when missing") }), &[]),
        ),
        spec(
            "search",
            "Finds a text in names and contents of files.",
            Verb::Search,
            Risk::ScopedRead,
            schema(
                json!({
                    "text": { "type": "string", "minLength": 1, "description": "the text to find, as it is" },
                    "path": path("directory to search; the whole resource when missing"),
                    "in": { "type": "string", "enum": ["names", "contents", "both"] },
                }),
                &["text"],
            ),
        ),
        spec(
            "stat",
            "Kind, size, mode, owner and times of a file, directory or link; the SHA-256 of a file.",
            Verb::Read,
            Risk::Search,
            schema(json!({ "path": path("relative path; the whole resource when missing") }), &[]),
        ),
        spec(
            "write_file",
            "Creates a text file or replaces its whole content. Its mode, owner and attributes stay.",
            Verb::Update,
            Risk::ReversibleWrite,
            schema(
                json!({
                    "path": path("relative path of the file; its directory must exist"),
                    "content": { "type": "string", "description": "the whole new content" },
                }),
                &["path", "content"],
            ),
        ),
        spec(
            "edit_file",
            "Replaces texts in a UTF-8 file, one after the other. Each `old` must occur exactly once.",
            Verb::Update,
            Risk::ReversibleWrite,
            schema(
                json!({
                    "path": path("relative path of the file"),
                    "edits": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "type": "object",
                            "properties": {
                                "old": { "type": "string", "minLength": 1 },
                                "new": { "type": "string" },
                            },
                            "required": ["old", "new"],
                            "additionalProperties": false,
                        },
                    },
                }),
                &["path", "edits"],
            ),
        ),
        spec(
            "move",
            "Moves or renames a file, link or directory. Never overwrites.",
            Verb::Update,
            Risk::ReversibleWrite,
            schema(
                json!({ "from": path("what to move"), "to": path("where to; nothing may be there") }),
                &["from", "to"],
            ),
        ),
        spec(
            "delete",
            "Deletes a file, link or directory. A directory that is not empty needs `recursive`.",
            Verb::Delete,
            Risk::ReversibleWrite,
            schema(json!({ "path": path("what to delete"), "recursive": { "type": "boolean" } }), &["path"]),
        ),
        spec(
            "make_directory",
            "Makes a directory, with `parents` also the missing directories above it.",
            Verb::Create,
            Risk::ReversibleWrite,
            schema(json!({ "path": path("the directory to make"), "parents": { "type": "boolean" } }), &["path"]),
        ),
        spec(
            "set_permissions",
            "Sets the permission bits of a file or directory. Never setuid or setgid.",
            Verb::Administer,
            Risk::AdminAction,
            schema(
                json!({
                    "path": path("the file or directory"),
                    "mode": { "type": "string", "pattern": "^[0-7]{3,4}$", "description": "octal, such as 0644" },
                }),
                &["path", "mode"],
            ),
        ),
    ]
}
