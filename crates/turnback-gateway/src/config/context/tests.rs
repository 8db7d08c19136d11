use std::path::Path;

use super::super::Config;
use turnback_core::robust::{Number, Tolerance};
use turnback_core::tool::Verb;

use super::*;

const HEAD: &str = r#"
[environments.test]
mode = "enforce"
[resources.db]
kind = "sqlite"
path = "shop.db"
environment = "test"
[resources.work]
kind = "files"
root = "work"
environment = "test"
"#;

fn read(more: &str) -> Result<Context, ConfigError> {
    let file = Path::new("/srv/turnback.toml");
    Config::parse(&format!("{HEAD}{more}"), file, file).map(|config| config.context)
}

#[test]
fn everything_is_read_as_it_is_written() {
    let context = read(
        r#"
        [context]
        reads_for = "48h"
        time = "2s"
        [[source]]
        name = "stock"
        resource = "db"
        sql = "select 1"
        max_age = "1h"
        [[source]]
        name = "counted"
        file = "count.json"
        value = "/n"
        [[evidence]]
        tool = "db__execute"
        reads = "same-resource"
        max_age = "15m"
        on_change = "review"
        agree = [{ sources = ["stock", "counted"], within_percent = 1.5 }]
        usual = [{ field = "/params/0", deviations = 3, history = 5, short = "deny" }]
        [[label]]
        resource = "work"
        places = ["./tickets/"]
        labels = ["untrusted"]
        [[flow]]
        after = ["untrusted", "secret"]
        then = { verbs = ["update"], risks = "reversible_write", resources = ["work"], places = ["public"] }
        reason = "no"
        "#,
    )
    .unwrap();
    assert_eq!(context.reads_for, SignedDuration::from_hours(48));
    assert_eq!(
        (context.labels_for, context.refused_for),
        (SignedDuration::from_hours(24), SignedDuration::from_hours(1))
    );
    assert_eq!(context.time, Duration::from_secs(2));
    let rule = &context.evidence[0];
    let reads = rule.reads.as_ref().unwrap();
    assert!(reads.required, "what a write rests on is required unless the file says otherwise");
    assert_eq!((rule.outcome, rule.name.as_str()), (Outcome::Review, "evidence 1"));
    assert_eq!(rule.agree[0].within, Tolerance::Percent(Number::new(1.5).unwrap()));
    assert_eq!((rule.usual[0].least, rule.usual[0].short), (5, Outcome::Deny));
    assert_eq!(context.labels[0].places, ["tickets"]);
    assert_eq!(context.flow[0].then.verbs, [Verb::Update]);
    assert_eq!(context.flow[0].outcome, Outcome::Deny);
    assert_eq!(
        context.sources["counted"].from,
        SourceFrom::File { path: "/srv/count.json".into(), value: Some("/n".into()), observed: None }
    );
}

#[test]
fn what_is_wrong_is_named_with_its_place_and_what_to_write_instead() {
    const SOURCES: &str = "[[source]]\nname = \"a\"\nfile = \"a\"\n[[source]]\nname = \"b\"\nfile = \"b\"\n";
    for (more, message, next) in [
        ("[[evidence]]\ntool = \"db__drop\"\nreads = \"all\"", "unknown tool `db__drop`", "use `db__"),
        ("[[evidence]]\nverb = \"destroy\"\nreads = \"all\"", "`destroy` is not a verb", "write"),
        ("[[evidence]]\nresource = \"shop\"\nreads = \"all\"", "unknown resource `shop`", "`db` or `work`"),
        ("[[evidence]]\nenvironment = \"prod\"\nreads = \"all\"", "unknown environment `prod`", "`test`"),
        ("[[evidence]]\ntool = []\nreads = \"all\"", "a word or a list", "[\"one\""),
        ("[[evidence]]\ntool = 7\nreads = \"all\"", "a word or a list", "[\"one\""),
        ("[[evidence]]\nreads = \"some\"", "`some` are no reads", "\"trace\""),
        (
            "[[evidence]]\nreads = \"trace\"\nrequired = false",
            "which trace a write is in the agent says",
            "remove this line",
        ),
        ("[[evidence]]\nreads = \"all\"\nmax_age = \"-5m\"", "must be longer than nothing", "positive duration"),
        ("[[evidence]]\nreads = \"all\"\nmax_age = \"500h\"", "not remembered for so long", "reads_for"),
        ("[[evidence]]\nreads = \"all\"\non_change = \"warn\"", "`warn` is no outcome", "\"deny\" or \"review\""),
        ("[[evidence]]\nmax_age = \"5m\"\nconfidence = 0.5", "the rule asks for none", "same-resource"),
        ("[[evidence]]\ntool = \"db__execute\"", "asks for nothing", "add `reads`"),
        ("[[evidence]]\nconfidence = 1.5", "a confidence cannot be `1.5`", "from 0 to 1"),
        ("[[evidence]]\nconfidence = nan", "a confidence cannot be `nan`", "from 0 to 1"),
        ("[[evidence]]\nsources = [\"c\"]", "unknown source `c`", "`a` or `b`"),
        ("[[evidence]]\nagree = [{ sources = [\"a\"], within = 1 }]", "two or more", "sources = "),
        ("[[evidence]]\nagree = [{ sources = [\"a\", \"b\"], within = -1 }]", "a tolerance cannot be `-1`", "from 0"),
        ("[[evidence]]\nagree = [{ sources = [\"a\", \"b\"], within = inf }]", "a tolerance cannot be `inf`", "from 0"),
        ("[[evidence]]\nagree = [{ sources = [\"a\", \"b\"] }]", "is said once", "within_percent"),
        ("[[evidence]]\nusual = [{ source = \"a\", field = \"/b\" }]", "one number is compared", "field"),
        ("[[evidence]]\nusual = [{ field = \"b\" }]", "no JSON Pointer", "/"),
        ("[[evidence]]\nusual = [{ field = \"/b\", history = 0 }]", "so much history", "1 to 256"),
        ("[[evidence]]\nusual = [{ field = \"/b\", deviations = -1 }]", "deviations cannot be `-1`", "from 0"),
        ("[[source]]\nname = \"c\"", "neither one query nor one file", "`resource` and `sql`"),
        ("[[source]]\nname = \"c\"\nresource = \"work\"\nsql = \"select 1\"", "only a database", "`file`"),
        (
            "[[source]]\nname = \"c\"\nresource = \"db\"\nsql = \"select 1\"\nvalue = \"/a\"",
            "about a file",
            "second column",
        ),
        ("[[source]]\nname = \"a\"\nfile = \"c\"", "two sources are named `a`", "own name"),
        ("[[label]]\nresource = \"work\"\nlabels = [\"hostile\"]", "there is no label `hostile`", "\"untrusted\""),
        ("[[label]]\nresource = \"work\"\nlabels = []", "no label is named", "\"untrusted\""),
        ("[[label]]\nresource = \"shop\"\nlabels = [\"secret\"]", "unknown resource `shop`", "`work`"),
        ("[[label]]\nresource = \"work\"\nplaces = [\"../x\"]\nlabels = [\"secret\"]", "no place inside", "path"),
        ("[[flow]]\nafter = []\nreason = \"no\"", "follows on nothing", "\"untrusted\""),
        ("[[flow]]\nafter = [\"private\"]\nreason = \"no\"", "there is no label `private`", "\"personal\""),
        ("[[flow]]\nafter = [\"secret\"]\noutcome = \"allow\"\nreason = \"no\"", "`allow` is no outcome", "\"deny\""),
        ("[[flow]]\nafter = [\"secret\"]", "missing field `reason`", "add it"),
        ("[context]\nrefused_for = \"forever\"", "is not a duration", "unit"),
    ] {
        let error = match read(&format!("{SOURCES}{more}\n")) {
            Err(error) => error,
            Ok(context) => panic!("{more}: {context:?}"),
        };
        let told = error.to_string();
        assert!(told.contains(message) && told.contains(next), "{more}\n{told}");
        assert!(error.line().is_some() || message == "asks for nothing", "{told}");
    }
}

#[test]
fn a_label_covers_what_lists_it_from_above() {
    let labelled =
        Labelled { resource: ResourceName::new("work").unwrap(), places: vec!["tickets".into()], labels: vec![] };
    let covers = |place: &str| labelled.covers(Kind::Files, Some(&[place.to_owned()]));
    assert!(covers("tickets/7.txt") && covers("tickets") && covers("."));
    assert!(!covers("tickets-old/7.txt") && !covers("a.txt"));
    assert!(labelled.covers(Kind::Files, None), "nobody knows where it was read");
}
