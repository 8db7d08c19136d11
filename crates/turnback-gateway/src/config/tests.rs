use turnback_core::rollback::Level;

use super::*;

const GOOD: &str = r#"
state = "state"

[listen]
address = "127.0.0.1:7500"
hold = "20s"

[environments.production]
mode = "enforce"

[resources.shop]
kind = "sqlite"
path = "shop.db"
environment = "production"
match = "same-rows"
bearer = "customer"

[[resources.shop.verify]]
kind = "query"
sql = "select count(*) from orders where customer_id is null"
expect = 0
tools = ["execute"]

[resources.work]
kind = "files"
root = "work"
environment = "production"
slots = "slots"

[[resources.work.verify]]
name = "index is there"
kind = "file"
path = "index.html"
contains = "<html"

[[resources.work.verify]]
kind = "command"
argv = ["/usr/bin/true"]
timeout = "2s"

[[resources.work.verify]]
kind = "http"
url = "http://127.0.0.1:8080/health"

[limits]
rows = 1000
deletions = 0

[limits.budget]
window = "10m"
actions = 20

[recoverability]
level = 5
window = "2h"

[[freeze]]
name = "year end"
reason = "books are closed"
environments = ["production"]
from = 2026-12-24T00:00:00Z
until = "2027-01-02T00:00:00+01:00"
measure = true

[approvals]
expire = "12h"
most = 250

[stdio]
agent = "coder"

[journal]
checkpoint_every = "30s"
"#;

fn read(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("turnback.toml"), Path::new("/nowhere/turnback.toml"))
}

fn fails(text: &str) -> ConfigError {
    read(text).expect_err("this must not load")
}

/// What it says: place, message, next step.
fn said(text: &str) -> String {
    let e = fails(text);
    format!("{} {} -> {}", e.location(), e.message(), e.next().unwrap_or("NOTHING"))
}

const BASE: &str = "[environments.production]\nmode = \"enforce\"\n";

fn with(rest: &str) -> String {
    format!("{BASE}{rest}")
}

fn files(root: &str) -> String {
    with(&format!("[resources.work]\nkind = \"files\"\nenvironment = \"production\"\nroot = \"{root}\"\n"))
}

#[test]
fn a_full_file_is_understood() {
    let config = read(GOOD).unwrap();
    assert_eq!(config.state, Path::new("/nowhere/state"));
    assert_eq!(config.socket(), Path::new("/nowhere/state/operator.sock"));
    assert_eq!(config.policy, Path::new("/nowhere/policies"));
    assert_eq!(config.listen.address.port(), 7500);
    assert_eq!(config.listen.hold, Duration::from_secs(20));
    let shop = &config.resources[&ResourceName::new("shop").unwrap()];
    assert_eq!((shop.kind, shop.bearer, shop.effect_match), (Kind::Sqlite, Bearer::Customer, Match::SameRows));
    assert_eq!(shop.place, Path::new("/nowhere/shop.db"));
    assert!(shop.verify[0].follows("execute") && !shop.verify[0].follows("query"));
    let work = &config.resources[&ResourceName::new("work").unwrap()];
    assert_eq!(work.slots.as_deref(), Some(Path::new("/nowhere/slots")));
    let names: Vec<_> = work.verify.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["index is there", "command 2", "http 3"]);
    let Check::File { path, exists: true, .. } = &work.verify[0].check else { panic!("a file probe") };
    assert_eq!(path, Path::new("/nowhere/work/index.html"));
    assert_eq!(work.verify[1].timeout, Duration::from_secs(2));
    assert_eq!(
        (config.limits.action.rows, config.limits.action.deletions, config.limits.action.files),
        (Some(1000), Some(0), None)
    );
    assert_eq!(config.limits.budgets[0].window, SignedDuration::from_mins(10));
    assert_eq!(config.floor, Floor { level: Level::Proved, window: SignedDuration::from_hours(2), irreversible: None });
    assert_eq!(config.freezes[0].until, Some("2027-01-01T23:00:00Z".parse().unwrap()));
    assert!(config.freezes[0].measure);
    assert_eq!((config.approvals_expire, config.approvals_most), (SignedDuration::from_hours(12), 250));
    assert_eq!(config.stdio_agent.as_ref().unwrap().as_str(), "coder");
    assert_eq!(config.checkpoint_every, Duration::from_secs(30));
    assert_eq!(config.digest(), Sha256::of(GOOD.as_bytes()));
}

#[test]
fn an_empty_file_has_defaults_and_lacks_things() {
    let config = read("").unwrap();
    assert_eq!(config.state, Path::new("/nowhere/.turnback"));
    assert_eq!(config.listen.address.to_string(), ADDRESS_DEFAULT);
    assert_eq!(config.listen.hold, Duration::from_secs(50));
    assert_eq!(config.floor, Floor::default());
    assert_eq!(config.limits, Limits::default());
    assert_eq!((config.approvals_expire, config.approvals_most), (SignedDuration::from_hours(24), 1000));
    let missing: Vec<_> = config.missing().iter().map(|e| e.message().to_owned()).collect();
    assert_eq!(missing.len(), 2, "{missing:?}");
}

#[test]
fn the_caret_stands_under_the_culprit() {
    let error = fails(&with("[resources.work]\nkind = \"files\"\nroot = \"w\"\nenvironment = \"prod\"\n"));
    assert_eq!((error.line(), error.column()), (Some(6), Some(15)));
    assert_eq!(
        error.to_string(),
        "turnback.toml:6:15: unknown environment `prod`\n  \
           |\n\
         6 | environment = \"prod\"\n  \
           |               ^^^^^^\n\
         next: use `production`, or add [environments.prod] with a mode"
    );
}

#[test]
fn every_mistake_is_named_with_its_place_and_the_next_step() {
    let cases = [
        // Syntax, and what TOML itself checks.
        ("state = ", "turnback.toml:1:9"),
        ("stat = \"x\"\n", "turnback.toml:1:1 unknown field `stat`"),
        ("[listen]\nadress = \"127.0.0.1:1\"\n", "turnback.toml:2:1 unknown field `adress`"),
        ("[listen]\naddress = 7423\n", "turnback.toml:2:11 invalid type"),
        ("[environments.production]\nmode = \"enforced\"\n", "turnback.toml:2:8 unknown variant `enforced`"),
        (
            "[environments.Production]\nmode = \"observe\"\n",
            "turnback.toml:1:15 `Production` is not a valid environment name",
        ),
        ("[stdio]\nagent = \"a b\"\n", "turnback.toml:2:9 `a b` is not a valid agent name"),
        // Values.
        ("[listen]\naddress = \"localhost\"\n", "turnback.toml:2:11 `localhost` is not an IP address with a port"),
        (
            "[listen]\naddress = \"0.0.0.0:7423\"\n",
            "turnback.toml:2:11 this address can be reached from other machines",
        ),
        ("[listen]\nhold = \"50\"\n", "turnback.toml:2:8 `50` is not a duration"),
        ("[listen]\nhold = \"-5s\"\n", "turnback.toml:2:8 how long a waiting call is held: must be longer"),
        ("[listen]\nhold = \"1h\"\n", "turnback.toml:2:8 no client waits longer"),
        ("[listen]\nallowed_hosts = [\"a.example\", \"*\"]\n", "turnback.toml:2:31 this is not a host"),
        ("[limits]\nrows = -1\n", "turnback.toml:2:8 a limit cannot be negative"),
        ("[limits.budget]\nwindow = \"10m\"\ndeletions = -3\n", "turnback.toml:3:13 a budget cannot be negative"),
        ("[limits.budget]\nwindow = \"10m\"\n", "turnback.toml:1:1 this budget limits nothing"),
        ("[limits.budget]\nactions = 3\n", "turnback.toml:1:1 missing field `window`"),
        ("[recoverability]\nlevel = 1\n", "turnback.toml:2:9 there is no level 1"),
        (
            "[[freeze]]\nname = \"a\"\nreason = \"\"\nenvironments = [\"x\"]\n",
            "turnback.toml:4:17 unknown environment `x`",
        ),
        (
            "[[freeze]]\nname = \"a\"\nreason = \"\"\nfrom = 2026-12-24T00:00:00\n",
            "turnback.toml:4:8 this is not a moment in time",
        ),
        (
            "[[freeze]]\nname = \"a\"\nreason = \"\"\nfrom = 2026-12-24T00:00:00Z\nuntil = 2026-12-23T00:00:00Z\n",
            "turnback.toml:5:9 this freeze ends before it begins",
        ),
        (
            "[[freeze]]\nname = \"a\"\nreason = \"\"\n[[freeze]]\nname = \"a\"\nreason = \"\"\n",
            "turnback.toml:5:8 two freezes are named `a`",
        ),
        // Limits, budgets, measures, denies, windows.
        ("[limits.tables]\norders = -1\n", "turnback.toml:2:10 a limit cannot be negative"),
        ("[limits.agents.coder]\nmoney = -1\n", "turnback.toml:2:9 a limit cannot be negative"),
        ("[limits.resources.db]\nrows = 1\n", "turnback.toml:1:19 unknown resource `db`"),
        ("[limits.environments.prod]\nrows = 1\n", "turnback.toml:1:22 unknown environment `prod`"),
        ("[limits]\nrow = 1\n", "turnback.toml:2:1 unknown field `row`"),
        (
            "[limits.budget]\nper = \"owner\"\nwindow = \"1h\"\nrows = 1\n",
            "turnback.toml:2:7 [limits.budget] is each agent's",
        ),
        ("[[budget]]\nper = \"team\"\nwindow = \"1h\"\nrows = 1\n", "turnback.toml:2:7 unknown variant `team`"),
        ("[[budget]]\nwindow = \"-1h\"\nrows = 1\n", "turnback.toml:2:10 the window of the budget: must be longer"),
        ("[[budget]]\nwindow = \"1h\"\nmoney = -1\n", "turnback.toml:3:9 a budget cannot be negative"),
        ("[[budget]]\nwindow = \"1h\"\nmoney = 99999999999999999999\n", "turnback.toml:3:9 "),
        ("[recoverability]\nirreversible = -1\n", "turnback.toml:2:16 an irreversibility budget cannot be negative"),
        (
            "[[measure]]\ntool = \"db__execute\"\nkind = \"money\"\nfield = \"/a\"\n",
            "turnback.toml:2:8 unknown tool `db__execute`",
        ),
        ("[[deny]]\nreason = \"no\"\n", "turnback.toml:1:1 this deny does not say what it denies"),
        ("[[deny]]\nagents = [\"coder\"]\n", "turnback.toml:1:1 missing field `reason`"),
        ("[[deny]]\nreason = \"no\"\nplaces = [\"a*b\"]\n", "turnback.toml:3:11 `*` stands for any end"),
        ("[[deny]]\nreason = \"no\"\ntools = [\"db__drop\"]\n", "turnback.toml:3:10 unknown tool `db__drop`"),
        (
            "[[deny]]\nreason = \"no\"\nname = \"a\"\nusers = [\"x\"]\n[[deny]]\nreason = \"no\"\nname = \"a\"\nusers = [\"x\"]\n",
            "turnback.toml:7:8 a deny needs a name of its own",
        ),
        (
            "[[freeze]]\nname = \"a\"\nreason = \"\"\ntimezone = \"Europe/Atlantis\"\n",
            "turnback.toml:4:12 there is no time zone `Europe/Atlantis`",
        ),
        (
            "[[freeze]]\nname = \"a\"\nreason = \"\"\ndays = [\"fri\"]\n",
            "turnback.toml:4:8 whose clocks this window goes by is not said",
        ),
        (
            "[[freeze]]\nname = \"a\"\nreason = \"\"\ntimezone = \"UTC\"\ndays = [\"friday\"]\n",
            "turnback.toml:5:9 unknown variant `friday`",
        ),
        (
            "[[freeze]]\nname = \"a\"\nreason = \"\"\ntimezone = \"UTC\"\ndays = []\n",
            "turnback.toml:5:8 this window opens on no day",
        ),
        (
            "[[freeze]]\nname = \"a\"\nreason = \"\"\ntimezone = \"UTC\"\nfrom = \"24:00\"\n",
            "turnback.toml:5:8 this is not a moment in time",
        ),
        (
            "[[freeze]]\nname = \"a\"\nreason = \"\"\ntimezone = \"UTC\"\ndays = [\"fri\"]\nfrom = 2026-12-24\n",
            "turnback.toml:6:8 a weekly window has times of day",
        ),
        (
            "[[freeze]]\nname = \"a\"\nreason = \"\"\nexceptions = [{}]\n",
            "turnback.toml:4:15 this exception does not say whom it excepts",
        ),
        (
            "[journal]\ncheckpoint_every = \"0s\"\n",
            "turnback.toml:2:20 how often a checkpoint is signed: must be longer",
        ),
    ];
    for (text, expected) in cases {
        let said = said(text);
        assert!(said.starts_with(expected), "for\n{text}\nexpected {expected}\nbut said {said}");
        assert!(!said.contains("NOTHING"), "no next step: {said}");
    }
}

#[test]
fn one_resource_named_twice_is_an_error() {
    let one = "[resources.work]\nkind = \"files\"\nenvironment = \"production\"\nroot = \"a\"\n";
    let said = said(&with(&format!("{one}{}", one.replace("\"a\"", "\"b\""))));
    assert!(said.starts_with("turnback.toml:7:12 `work` is named twice"), "{said}");
}

#[test]
fn resources_must_say_where_they_are_in_their_own_word() {
    let resource = |rest: &str| with(&format!("[resources.x]\nenvironment = \"production\"\n{rest}"));
    for (rest, expected) in [
        ("kind = \"files\"\n", "turnback.toml:3:12 resource `x` of kind `files` does not say where it is"),
        ("kind = \"files\"\npath = \"a\"\n", "turnback.toml:6:8 a resource of kind `files` has no `path`"),
        ("kind = \"sqlite\"\npath = \"a\"\nslots = \"s\"\n", "turnback.toml:7:9 a database needs no slots"),
        ("kind = \"postgres\"\npath = \"a\"\n", "turnback.toml:5:8 unknown variant `postgres`"),
        ("kind = \"sqlite\"\npath = \"a\"\nbearer = \"me\"\n", "turnback.toml:7:10 unknown variant `me`"),
    ] {
        let said = said(&resource(rest));
        assert!(said.starts_with(expected), "{rest}: {said}");
    }
}

#[test]
fn probes_are_checked_against_their_kind() {
    let probe = |kind: &str, rest: &str| {
        let place = if kind == "files" { "root" } else { "path" };
        with(&format!(
            "[resources.x]\nenvironment = \"production\"\nkind = \"{kind}\"\n{place} = \"a\"\n[[resources.x.verify]]\n{rest}"
        ))
    };
    for (kind, rest, expected) in [
        ("files", "kind = \"ping\"\n", "turnback.toml:8:8 there is no probe of kind `ping`"),
        (
            "files",
            "kind = \"query\"\nsql = \"select 1\"\nexpect = 1\n",
            "turnback.toml:8:8 only a database can be asked",
        ),
        (
            "sqlite",
            "kind = \"query\"\nsql = \"select 1\"\n",
            "turnback.toml:8:8 a probe of kind `query` needs `expect`",
        ),
        (
            "sqlite",
            "kind = \"query\"\nsql = \"select 1\"\nexpect = [1]\n",
            "turnback.toml:10:10 a query probe compares one value",
        ),
        (
            "sqlite",
            "kind = \"http\"\nurl = \"http://a/\"\nsql = \"select 1\"\n",
            "turnback.toml:10:7 a probe of kind `http` has no `sql`",
        ),
        ("sqlite", "kind = \"http\"\nurl = \"ftp://a/\"\n", "turnback.toml:9:7 this is not an HTTP address"),
        (
            "sqlite",
            "kind = \"http\"\nurl = \"http://a/\"\nstatus = 999\n",
            "turnback.toml:10:10 this is not an HTTP status",
        ),
        ("files", "kind = \"command\"\nargv = []\n", "turnback.toml:9:8 no program is named"),
        ("files", "kind = \"command\"\nargv = \"rm -rf /\"\n", "turnback.toml:9:8 invalid type"),
        (
            "files",
            "kind = \"file\"\npath = \"a\"\nexists = false\ncontains = \"x\"\n",
            "turnback.toml:11:12 a file that must not exist",
        ),
        (
            "files",
            "kind = \"file\"\npath = \"a\"\ntools = [\"execute\"]\n",
            "turnback.toml:10:10 `execute` is no tool of kind `files`",
        ),
        (
            "files",
            "kind = \"file\"\npath = \"a\"\ntimeout = \"soon\"\n",
            "turnback.toml:10:11 `soon` is not a duration",
        ),
    ] {
        let said = said(&probe(kind, rest));
        assert!(said.starts_with(expected), "{rest}: {said}");
    }
}

#[test]
fn nothing_overlaps_and_nothing_of_ours_is_within_reach() {
    for (text, expected) in [
        (files("/nowhere"), "turnback.toml:6:8 the state directory and `root` of resource `work` overlap"),
        (
            format!("state = \"/far/state\"\n{}", files("/nowhere")),
            "turnback.toml:7:8 the policy lies inside resource `work`",
        ),
        (
            format!("state = \"/far/state\"\n{}[policy]\npath = \"/far/policies\"\n", files("/nowhere")),
            "turnback.toml:7:8 this configuration lies inside resource `work`",
        ),
        (format!("state = \"work/.state\"\n{}", files("work")), "turnback.toml:1:9 the state directory and `root`"),
        (format!("state = \"x\"\n{}", files("x/work")), "turnback.toml:1:9 the state directory and `root`"),
        (
            format!("{}slots = \"work/.slots\"\n", files("work")),
            "turnback.toml:7:9 `root` and `slots` of resource `work` overlap",
        ),
        (format!("{}slots = \".\"\n", files("/far/work")), "turnback.toml:7:9 the state directory and `slots`"),
        (
            format!(
                "{}[resources.zoo]\nkind = \"files\"\nenvironment = \"production\"\nroot = \"work/./deep/../deep\"\n",
                files("work")
            ),
            "turnback.toml:10:8 resource `zoo` overlaps resource `work`",
        ),
        (
            format!(
                "{}[resources.zoo]\nkind = \"sqlite\"\nenvironment = \"production\"\npath = \"work/a.db\"\n",
                files("work")
            ),
            "turnback.toml:10:8 resource `zoo` overlaps resource `work`",
        ),
        (
            format!(
                "{}[resources.zoo]\nkind = \"files\"\nenvironment = \"production\"\nroot = \"work\"\n",
                files("work")
            ),
            "turnback.toml:10:8 resources `work` and `zoo` are the same thing",
        ),
    ] {
        let error = fails(&text);
        let said = format!("{} {}", error.location(), error.message());
        assert!(said.starts_with(expected), "expected {expected}\nbut said {said}\nfor\n{text}");
    }
    // A name that only begins the same is another place; slots may lie inside the state directory.
    let twins = format!(
        "{}slots = \".turnback/slots\"\n[resources.zoo]\nkind = \"files\"\nenvironment = \"production\"\nroot = \"work-evil\"\n",
        files("work")
    );
    assert!(read(&twins).is_ok());
}

#[test]
fn an_overlap_behind_a_symlink_is_found() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("work/deep")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("work/deep"), dir.path().join("alias")).unwrap();
    let file = dir.path().join(FILE_NAME);
    let zoo = "[resources.zoo]\nkind = \"files\"\nenvironment = \"production\"\nroot = \"alias\"\n";
    std::fs::write(&file, format!("{}{zoo}", files("work"))).unwrap();
    let error = Config::load(&file).unwrap_err();
    assert_eq!(error.message(), "resource `zoo` overlaps resource `work`");
}

#[test]
fn what_the_file_names_but_is_not_there_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(FILE_NAME);
    assert!(Config::load(&file).unwrap_err().to_string().contains("turnback init"));
    std::fs::write(&file, files("work")).unwrap();
    let missing = |file: &Path| -> Vec<String> {
        Config::load(file).unwrap().missing().iter().map(|e| e.message().to_owned()).collect()
    };
    assert!(missing(&file)[0].ends_with("of resource `work` does not exist"));
    std::fs::write(dir.path().join("work"), "").unwrap();
    assert!(missing(&file)[0].ends_with("of resource `work` is not a folder"));
    std::fs::remove_file(dir.path().join("work")).unwrap();
    std::fs::create_dir(dir.path().join("work")).unwrap();
    std::fs::create_dir(dir.path().join("policies")).unwrap();
    assert_eq!(missing(&file), Vec::<String>::new());
}

#[test]
fn what_is_not_text_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(FILE_NAME);
    std::fs::write(&file, b"state = \"\xff\"").unwrap();
    assert!(Config::load(&file).unwrap_err().message().contains("byte 9"));
    assert!(Config::load(dir.path()).unwrap_err().message().contains("not a file"));
    std::fs::write(&file, "#".repeat(usize::try_from(SIZE_LIMIT).unwrap() + 1)).unwrap();
    assert!(Config::load(&file).unwrap_err().message().contains("more than"));
}

#[test]
fn hostile_characters_are_shown_and_the_caret_still_fits() {
    let error = fails("[listen]\nhold = \"5\u{202e}s\"\n");
    let text = error.to_string();
    assert!(text.contains("5<U+202E>s"), "{text}");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[2].chars().count(), lines[3].chars().count(), "{text}");
}

#[test]
fn no_cut_and_no_flip_of_a_file_stops_the_program() {
    let lines = GOOD.lines().count() + 2;
    let check = |text: &str| {
        if let Err(error) = read(text) {
            assert!(error.line().is_none_or(|line| (1..=lines).contains(&line)), "{error}");
            assert!(error.next().is_some() && !error.to_string().is_empty());
        }
    };
    for at in 0..GOOD.len() {
        check(&GOOD[..at]);
        for with in ["\u{202e}", "-", "\"", "[", "\n"] {
            check(&format!("{}{with}{}", &GOOD[..at], &GOOD[at + 1..]));
        }
    }
}

#[test]
fn limits_budgets_and_measures_are_understood() {
    let config = read(&files("work").replace(
        "[resources.work]",
        "[limits]\nmoney = 5\n[limits.tables]\norders = 10\n[limits.tools.work__delete]\nfiles = 2\n\
         [limits.owners.\"Anna B\"]\nrows = 3\n[limits.budget]\nwindow = \"1m\"\nactions = 1\n\
         [[budget]]\nper = \"everything\"\nwindow = \"1h\"\nmoney = 7\n\
         [[measure]]\ntool = \"work__write_file\"\nkind = \"money\"\nfield = \"/a~1b/0\"\n\
         [[measure]]\ntool = \"work__edit_file\"\nkind = \"recipients\"\nfield = \"/edits\"\n\
         [grants]\nrequired = true\n[resources.work]",
    ))
    .unwrap();
    let limits = &config.limits;
    assert_eq!((limits.action.money, limits.action.tables["orders"]), (Some(5), 10));
    let scopes: Vec<_> = limits.scoped.iter().map(|s| s.of.to_string()).collect();
    assert_eq!(scopes, ["owner `Anna B`", "tool `work__delete`"]);
    let per: Vec<_> = limits.budgets.iter().map(|b| (b.per.word(), b.actions, b.most.money)).collect();
    assert_eq!(per, [("agent", Some(1), None), ("everything", None, Some(7))]);
    assert_eq!(limits.measures[0].kind, turnback_core::gates::blast_radius::Counted::Money { decimals: 2 });
    assert!(config.grants_required);
}

#[test]
fn dates_and_windows_go_by_the_clocks_of_the_zone() {
    let freeze = |rest: &str| {
        let text = with(&format!("[[freeze]]\nname = \"a\"\nreason = \"\"\ntimezone = \"Europe/Berlin\"\n{rest}"));
        read(&text).unwrap().freezes.remove(0)
    };
    let dates = freeze("from = 2026-12-24\nuntil = \"2027-01-01\"\n");
    assert_eq!(dates.from, Some("2026-12-24T00:00:00+01:00".parse().unwrap()));
    assert_eq!(dates.until, Some("2027-01-02T00:00:00+01:00".parse().unwrap()), "its last day belongs to it");
    let times = freeze("from = 2026-10-25T02:30:00\nuntil = 2026-10-25T02:30:00+01:00\n");
    assert_eq!(times.from, Some("2026-10-25T02:30:00+02:00".parse().unwrap()), "the stricter of two readings");
    for rest in ["days = [\"fri\"]\nfrom = \"16:00\"\n", "days = [\"fri\"]\nfrom = 16:00:00\nuntil = \"23:59\"\n"] {
        assert_eq!(freeze(rest).calendar.unwrap().to_string(), "fri 16:00 to 23:59 Europe/Berlin");
    }
}

/// The reference is read by the reader it describes: a section that changes without it fails here.
#[test]
fn every_example_of_the_reference_is_read() {
    let document = include_str!("../../../../docs/configuration.md");
    let blocks: Vec<&str> = document.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() > 7, "{}", blocks.len());
    // Keys before the first table belong to the file itself, so that block comes first.
    let (first, rest): (Vec<&str>, Vec<&str>) = blocks.iter().partition(|block| block.starts_with("state"));
    let text = [first, rest].concat().join("\n");
    let file = Path::new("/srv/turnback.toml");
    let config = Config::parse(&text, file, file).unwrap_or_else(|e| panic!("{e:?}\n{text}"));
    assert_eq!(config.resources.len(), 3);
    assert_eq!((config.collisions.len(), config.limits.budgets.len(), config.denies.len()), (1, 1, 1));
}
