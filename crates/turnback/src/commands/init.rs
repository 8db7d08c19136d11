//! `turnback init`: a first configuration and policy. Never overwrites anything.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use serde_json::json;
use turnback_core::names::{AgentName, ResourceName};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::text::visible;
use turnback_core::tool::Kind;
use turnback_gateway::config::{Config, FILE_NAME};

use crate::context::{Context, Exit, Failure};
use crate::render::style::{STRONG, next, paint};
use crate::templates;

/// Write a first configuration and policy, in observe mode
#[derive(clap::Args)]
#[command(
    long_about = "Write a first configuration and policy, in observe mode: writes are measured and recorded, never \
                  committed, until you say otherwise. Nothing is overwritten.",
    after_help = "Example: turnback init --files ./work --sqlite ./shop.db\n\nExit codes: 0 written, 1 error, nothing \
                  was written."
)]
pub(crate) struct Args {
    /// Where to write; must be outside every folder agents work in
    #[arg(default_value = ".")]
    dir: PathBuf,
    #[command(flatten)]
    places: Places,
}

/// What agents may work in.
#[derive(clap::Args)]
pub(crate) struct Places {
    /// A folder agents may work in
    #[arg(long, value_name = "FOLDER")]
    pub(crate) files: Vec<PathBuf>,
    /// A SQLite database agents may work in
    #[arg(long, value_name = "FILE")]
    pub(crate) sqlite: Vec<PathBuf>,
    /// The first agent
    #[arg(long, default_value = "agent", value_name = "NAME")]
    agent: AgentName,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let paths = write(&args.dir, &args.places)?;
    let dir = args.dir.canonicalize().map_err(|e| failed(&args.dir, "cannot be opened", &e))?;
    let here = std::env::current_dir().is_ok_and(|here| here == dir);
    let shown = visible(&dir.join(FILE_NAME).to_string_lossy());
    let command = if here { "turnback up".to_owned() } else { format!("turnback up --config {shown}") };
    let none = args.places.files.is_empty() && args.places.sqlite.is_empty();
    context.answer(&json!({ "written": paths, "next": command }), |_| {
        let mut out = wrote(&paths);
        out.push_str("\nwrites are only measured until you change `mode` from \"observe\"\n");
        if none {
            out.push_str(&format!("next: name a folder or a database in {shown}, then {command}\n"));
        } else {
            out.push_str(&format!("{}\n", next(&command)));
        }
        out
    })?;
    Ok(Exit::Fine)
}

/// One line for each file written.
pub(crate) fn wrote(paths: &[String]) -> String {
    paths.iter().map(|path| format!("{} {}\n", paint(STRONG, "wrote"), visible(path))).collect()
}

/// Writes configuration, policy and cases into `dir` and says which files it made. All of them or none.
pub(crate) fn write(dir: &Path, args: &Places) -> Result<Vec<String>, Failure> {
    fs::create_dir_all(dir).map_err(|e| failed(dir, "cannot be made", &e))?;
    let dir = dir.canonicalize().map_err(|e| failed(dir, "cannot be opened", &e))?;
    let mut names = BTreeSet::new();
    let mut resources = String::new();
    let wanted = args.files.iter().map(|p| (Kind::Files, p)).chain(args.sqlite.iter().map(|p| (Kind::Sqlite, p)));
    for (kind, path) in wanted {
        resources.push_str(&resource(&dir, kind, path, &mut names)?);
        resources.push('\n');
    }
    if resources.is_empty() {
        resources.push_str(EXAMPLES);
    }
    let text = templates::CONFIG.replace("@RESOURCES@\n", &resources).replace("@AGENT@", args.agent.as_str());
    let files = [
        (dir.join("policies/starter.cedar"), templates::POLICY),
        (dir.join("policies/starter.cases.json"), templates::CASES),
        (dir.join(FILE_NAME), text.as_str()),
    ];
    if let Some((path, _)) = files.iter().find(|(path, _)| path.symlink_metadata().is_ok()) {
        return Err(Refusal::new(Code::Exists, "is there already; nothing was written")
            .at(path.to_string_lossy())
            .next("edit it, or write into another folder: turnback init <dir>")
            .into());
    }
    let mut written = Written::default();
    written.folder(&dir.join("policies"))?;
    for (path, text) in &files {
        written.file(path, text)?;
    }
    // What was written is read the way `up` will read it; if it does not hold, none of it stays.
    Config::load(&dir.join(FILE_NAME))?;
    Ok(written.keep())
}

const EXAMPLES: &str = "# What agents may act on. Take away the `#` of at least one.
#
# [resources.work]
# kind = \"files\"
# root = \"work\"
# environment = \"default\"
#
# [resources.shop]
# kind = \"sqlite\"
# path = \"shop.db\"
# environment = \"default\"
#
# # Checked after every commit; when it does not hold, the commit is rolled back.
# [[resources.shop.verify]]
# kind = \"query\"
# sql = \"select count(*) from orders where customer_id is null\"
# expect = 0

";

fn failed(path: &Path, what: &str, error: &std::io::Error) -> Refusal {
    Refusal::new(Code::Failed, format!("{what}: {error}")).at(path.to_string_lossy())
}

/// The table of one resource.
fn resource(dir: &Path, kind: Kind, path: &Path, names: &mut BTreeSet<String>) -> Result<String, Refusal> {
    let place = path.canonicalize().map_err(|e| {
        let next = match kind {
            Kind::Files => "make it first: mkdir -p",
            Kind::Sqlite => "name a database that exists",
        };
        failed(path, "cannot be opened", &e).next(next)
    })?;
    let fits = match kind {
        Kind::Files => place.is_dir(),
        Kind::Sqlite => place.is_file(),
    };
    if !fits {
        let (is, next) = match kind {
            Kind::Files => ("is not a folder", "name a database with --sqlite"),
            Kind::Sqlite => ("is not a file", "name a folder with --files"),
        };
        return Err(Refusal::new(Code::BadInput, is).at(path.to_string_lossy()).next(next));
    }
    if kind == Kind::Files && dir.starts_with(&place) {
        return Err(Refusal::new(Code::BadInput, "the configuration would lie inside it, where agents could write it")
            .at(path.to_string_lossy())
            .next("write it elsewhere: turnback init <dir outside> --files <folder>"));
    }
    let written = place.strip_prefix(dir).unwrap_or(&place).to_str().filter(|text| visible(text) == **text);
    let Some(written) = written else {
        return Err(Refusal::new(Code::BadInput, "a path with characters that cannot be shown is not written down")
            .at(path.to_string_lossy())
            .next("rename it"));
    };
    let name = name_for(&place, names);
    let field = match kind {
        Kind::Files => "root",
        Kind::Sqlite => "path",
    };
    // A JSON string without control characters is a TOML string.
    let quoted = serde_json::Value::from(written).to_string();
    Ok(format!("[resources.{name}]\nkind = \"{}\"\n{field} = {quoted}\nenvironment = \"default\"\n", kind.word()))
}

/// A name that follows the rule for names, from the last part of a path.
fn name_for(place: &Path, names: &mut BTreeSet<String>) -> String {
    let stem = place.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let mut base = String::new();
    for c in stem.chars() {
        let c = if c.is_ascii_alphanumeric() { c } else { '-' };
        if !(c == '-' && (base.is_empty() || base.ends_with('-'))) && base.len() < 40 {
            base.push(c);
        }
    }
    let base = base.trim_end_matches('-');
    let base = if ResourceName::new(base).is_ok() { base } else { "resource" };
    let mut name = base.to_owned();
    let mut number = 2;
    while !names.insert(name.clone()) {
        name = format!("{base}-{number}");
        number += 1;
    }
    name
}

/// Files and folders made so far; dropped before [`Written::keep`], they are removed again.
#[derive(Default)]
struct Written {
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
}

impl Written {
    fn folder(&mut self, path: &Path) -> Result<(), Refusal> {
        match fs::create_dir(path) {
            Ok(()) => self.folders.push(path.to_owned()),
            Err(e) if e.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
            Err(e) => return Err(failed(path, "cannot be made", &e)),
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, text: &str) -> Result<(), Refusal> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|e| failed(path, "cannot be written", &e))?;
        self.files.push(path.to_owned());
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(|e| failed(path, "cannot be written", &e))
    }

    fn keep(mut self) -> Vec<String> {
        self.folders.clear();
        std::mem::take(&mut self.files).iter().map(|path| path.to_string_lossy().into_owned()).collect()
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        for path in &self.files {
            // Cleaning up after an error that is reported; nothing better can be done here.
            let _ = fs::remove_file(path);
        }
        for path in &self.folders {
            let _ = fs::remove_dir(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule_and_differ() {
        let mut names = BTreeSet::new();
        let mut name = |path: &str| name_for(Path::new(path), &mut names);
        assert_eq!(name("/srv/Shop Data.db"), "shop-data");
        assert_eq!(name("/srv/shop_data"), "shop-data-2");
        assert_eq!(name("/"), "resource");
        assert_eq!(name("/srv/日本"), "resource-2");
        for n in names {
            assert!(ResourceName::new(&n).is_ok(), "{n}");
        }
    }
}
