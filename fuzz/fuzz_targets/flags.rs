//! Release flags: a document somebody wrote, and what a service answers. Nothing of either makes an action freer.
//!
//! Input: a byte that chooses (even: a document; odd: an answer, by its status), then the text.
#![no_main]

use std::sync::OnceLock;

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use turnback_core::contract::Contract;
use turnback_core::decision::{Obligation, Ruling, Verdict};
use turnback_core::flags::remote::{Answer, Heard};
use turnback_core::flags::{Flagged, Flags, Said};
use turnback_core::gates::Facts;
use turnback_core::gates::autonomy::Ceilings;
use turnback_core::gates::blast_radius::Limits;
use turnback_core::gates::controls::Controls;
use turnback_core::gates::recoverability::Floor;
use turnback_core::gates::release::{self, Mode};
use turnback_core::policy::{Policy, Source};
use turnback_core::tool::Kind;
use turnback_fuzz::{World, harmless};

const KEY: &str = "release";
const MODES: [Mode; 7] =
    [Mode::Off, Mode::SearchOnly, Mode::Fallback, Mode::Observe, Mode::Draft, Mode::ApprovedExternal, Mode::Enforce];

/// One read and one write.
fn contracts() -> &'static [Contract; 2] {
    static CONTRACTS: OnceLock<[Contract; 2]> = OnceLock::new();
    CONTRACTS.get_or_init(|| {
        [("read_file", r#"{"path":"a.txt"}"#), ("write_file", r#"{"path":"a.txt","content":"x"}"#)].map(
            |(name, text)| {
                let world = World::get();
                let tool = world.tools.iter().find(|tool| tool.kind == Kind::Files && tool.local == name).unwrap();
                world.parse(tool, text.as_bytes()).unwrap()
            },
        )
    })
}

fn policy() -> &'static Policy {
    static POLICY: OnceLock<Policy> = OnceLock::new();
    POLICY.get_or_init(|| {
        let source = Source { name: "fuzz.cedar".into(), text: "permit (principal, action, resource);".into() };
        Policy::compile(&[source], &World::get().tools).unwrap_or_else(|e| panic!("{e:?}"))
    })
}

fn judged(contract: &Contract, mode: Mode, flags: Option<&Flagged>) -> Verdict {
    let (controls, limits, floor, ceilings) =
        (Controls::default(), Limits::default(), Floor::default(), Ceilings::default());
    release::judge(&Facts {
        contract,
        now: Timestamp::UNIX_EPOCH,
        wall: None,
        agent: None,
        controls: &controls,
        mode,
        flags,
        ceilings: &ceilings,
        policy: policy(),
        limits: &limits,
        spent: &[],
        irreversible: 0,
        excepted: &[],
        grants_required: false,
        collision: None,
        plan: None,
        forms: &[],
        floor: &floor,
        approved: false,
        flow: None,
        evidence: None,
        measured: None,
    })
}

/// Nothing is allowed with them that is not without, and nothing is committed that would only be measured. What is
/// said is harmless, and the record brings it back.
fn only_tightens(contract: &Contract, flagged: &Flagged) {
    let back: Flagged = serde_json::from_str(&serde_json::to_string(flagged).unwrap()).unwrap();
    assert_eq!(back, *flagged);
    for mode in MODES {
        let (before, after) = (judged(contract, mode, None), judged(contract, mode, Some(flagged)));
        let measured = |verdict: &Verdict| verdict.obligations.contains(&Obligation::MeasureOnly);
        assert!(after.ruling >= before.ruling, "{mode:?} {flagged:?}");
        assert!(measured(&after) || !measured(&before), "{mode:?} {flagged:?}");
        if flagged.said.iter().any(|said| said.error.is_some()) {
            assert_eq!(after.ruling, Ruling::Deny);
        }
        harmless(&after.reason);
        after.next.iter().for_each(|next| harmless(next));
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, body)) = data.split_first() else { return };
    if choice % 2 == 0 {
        let Ok(text) = std::str::from_utf8(body) else { return };
        match Flags::read(text, &World::get().tools) {
            Ok(flags) => {
                for contract in contracts() {
                    let flagged = flags.about(contract, None, Timestamp::UNIX_EPOCH);
                    for said in &flagged.said {
                        assert!(said.error.is_none() || said.mode.is_none());
                    }
                    assert_eq!(flags.about(contract, None, Timestamp::UNIX_EPOCH), flagged);
                    only_tightens(contract, &flagged);
                }
            }
            Err(errors) => {
                assert!(!errors.is_empty());
                for error in errors {
                    assert!(error.line >= 1 && error.line <= text.matches('\n').count() + 1, "{error}");
                    harmless(&error.message);
                }
            }
        }
        return;
    }
    let status = [200, 400, 404][usize::from(choice / 2) % 3];
    let heard = Heard { service: "https://flags.example".into(), at: Some(Timestamp::UNIX_EPOCH), stale: None };
    let said = match Answer::read(KEY, status, body) {
        Ok(answer) => {
            // Another reader sees the same.
            let read: Value = serde_json::from_slice(body).unwrap();
            assert_eq!(read["key"], KEY);
            match answer.mode {
                Some(mode) => {
                    assert_eq!(status, 200);
                    assert_eq!(read["value"].as_str().and_then(Mode::from_word), Some(mode));
                }
                None => assert!(status == 404 || read["value"].is_null()),
            }
            Said::heard(KEY.into(), &answer, heard)
        }
        Err(why) => {
            harmless(&why);
            assert!(why.len() < 2_000, "{why}");
            Said::unheard(KEY.into(), heard.service, why)
        }
    };
    let flagged = Flagged::together(None, vec![said]).unwrap();
    contracts().iter().for_each(|contract| only_tightens(contract, &flagged));
});
