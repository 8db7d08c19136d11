//! A whole node under a clock that jumps by 400 days, both ways, and one that runs fifty times too fast:
//! nothing lasts longer, nothing that was over comes back, and the record stays in order.
//!
//! Tolerances, as promised in SECURITY.md: what runs out is refused from that very moment on, and recorded
//! as over at most a second later (a second by the machine's counter). A clock set forward is believed
//! at once. One set back moves nothing while the node runs; when it was set back while nothing ran, by
//! more than a minute, open questions count as expired and tokens made later than now are refused.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]

mod support;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use support::{CONFIG, Node, Place, done, ended, pending, refused};
use turnback_core::names::AgentName;
use turnback_core::refusal::Code;
use turnback_core::run::{Answer as Answered, Event};
use turnback_gateway::desk::Desk as _;
use turnback_gateway::operator::protocol::{Reply, Request};

const DAYS_400: i64 = 400 * 24 * 3600;

/// Longest time anything may take here; only ever met by a failing test.
const PATIENCE: Duration = Duration::from_secs(30);

const ASKS: &str = "delete from customers where id > 10";

fn configured(more: &str) -> Place {
    Place::with(&CONFIG.replace("[policy]", &format!("{more}\n[policy]")))
}

async fn token(node: &Node, lifetime_seconds: u64) -> String {
    let request = Request::TokenNew {
        agent: AgentName::new("coder").unwrap(),
        on_behalf_of: None,
        assignment: turnback_core::contract::Assignment::default(),
        lifetime_seconds,
    };
    match node.operate(request).await {
        Reply::Token { secret, .. } => secret,
        other => panic!("{other:?}"),
    }
}

/// Waits for something the node does by itself.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let all = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap_or_else(|_| panic!("never: {what}"));
}

async fn no_tokens(node: &Node) {
    until(
        "the token is revoked",
        async || matches!(node.operate(Request::Tokens).await, Reply::Tokens(t) if t.is_empty()),
    )
    .await;
}

async fn expires(node: &Node, waiting: &turnback_gateway::desk::Pending) {
    let end = node.runtime.wait(&node.caller, waiting.clone(), PATIENCE).await;
    assert_eq!(refused(end).0.code, Code::Rejected);
    assert_eq!(node.show(&waiting.run.to_string()).await.row.state, "expired");
}

async fn is_too_late(node: &Node, waiting: &turnback_gateway::desk::Pending) {
    let Reply::Refused(_) = node.approve(&waiting.approval.to_string()).await else { panic!("approved too late") };
}

#[tokio::test]
async fn a_jump_forward_ends_questions_and_tokens_and_the_way_back_revives_neither() {
    let place = Place::new();
    let node = place.start().await;
    let secret = token(&node, 3600).await;
    let waiting = pending(node.sql(ASKS).await);
    node.runtime.authenticate(&secret).unwrap();
    place.pass(DAYS_400);
    is_too_late(&node, &waiting).await;
    assert_eq!(node.runtime.authenticate(&secret).unwrap_err().code, Code::Unauthenticated);
    expires(&node, &waiting).await;
    no_tokens(&node).await;
    for _ in 0..2 {
        place.pass(-DAYS_400);
        is_too_late(&node, &waiting).await;
        assert!(node.runtime.authenticate(&secret).is_err());
    }
    node.stop().await;
    place.pass(DAYS_400);
    let node = place.start().await;
    is_too_late(&node, &waiting).await;
    assert!(node.runtime.authenticate(&secret).is_err(), "a token is over for good");
    assert_eq!(place.value("select count(*) from customers"), json!(20));
}

#[tokio::test]
async fn a_clock_set_back_lengthens_nothing_and_ends_nothing_early() {
    let place = configured("[approvals]\nexpire = \"2s\"");
    let node = place.start().await;
    let secret = token(&node, 2).await;
    let waiting = pending(node.sql(ASKS).await);
    place.pass(-DAYS_400);
    node.runtime.authenticate(&secret).unwrap();
    // In time by the machine's counter, whatever the clock shows.
    expires(&node, &waiting).await;
    is_too_late(&node, &waiting).await;
    until("the token ends", async || node.runtime.authenticate(&secret).is_err()).await;
    no_tokens(&node).await;
    // A question asked since then is answered as ever.
    let waiting = pending(node.sql("delete from customers where id > 11").await);
    assert_eq!(ended(node.approve(&waiting.approval.to_string()).await)[0].row.state, "settled");
}

#[tokio::test]
async fn a_clock_set_back_while_nothing_ran_extends_no_question_and_no_token() {
    let place = Place::new();
    let node = place.start().await;
    let secret = token(&node, 3600).await;
    let waiting = pending(node.sql(ASKS).await);
    node.stop().await;
    place.pass(-DAYS_400);
    let node = place.start().await;
    assert_eq!(node.show(&waiting.run.to_string()).await.row.state, "expired");
    is_too_late(&node, &waiting).await;
    assert!(node.runtime.authenticate(&secret).is_err());
    node.stop().await;
    // A minute is how far clocks are forgiven: nothing ends for a small correction.
    place.pass(DAYS_400);
    let node = place.start().await;
    let waiting = pending(node.sql("delete from customers where id > 11").await);
    node.stop().await;
    place.pass(-2);
    let node = place.start().await;
    assert_eq!(node.show(&waiting.run.to_string()).await.row.state, "parked");
}

#[tokio::test]
async fn a_freeze_holds_by_either_clock() {
    let now = Timestamp::now();
    let hours = |n| now + SignedDuration::from_hours(n);
    let place = configured(&format!(
        "[[freeze]]\nname = \"release\"\nreason = \"we ship\"\nfrom = {}\nuntil = {}\n",
        hours(-1),
        hours(1)
    ));
    let node = place.start().await;
    let write = "update customers set tier = 'gold' where id = 1";
    for back in [0, DAYS_400] {
        place.pass(-back);
        assert!(refused(node.sql(write).await).0.message.contains("release"), "set back by {back} s");
    }
    place.pass(DAYS_400 + 3_601);
    done(node.sql(write).await);
    place.pass(-3_601);
    assert!(refused(node.sql(write).await).0.message.contains("release"), "the clock shows a time inside it again");
}

#[tokio::test]
async fn a_budget_is_neither_refilled_nor_held_by_a_clock_set_back() {
    let place = configured("[limits.budget]\nwindow = \"10m\"\ndeletions = 2");
    let node = place.start().await;
    done(node.sql("delete from orders where id < 3").await);
    let full = async |node: &Node| {
        assert!(refused(node.sql("delete from orders where id = 9").await).0.message.contains("budget"))
    };
    full(&node).await;
    place.pass(-DAYS_400);
    full(&node).await;
    node.stop().await;
    // Restarted under the wrong clock, what was spent counts for one window more, not for 400 days.
    let node = place.start().await;
    full(&node).await;
    place.pass(601);
    done(node.sql("delete from orders where id = 9").await);
}

#[tokio::test]
async fn an_undo_follows_the_order_of_the_record_not_of_the_clock() {
    let place = Place::new();
    let node = place.start().await;
    let set = |tier: &str| format!("update customers set tier = '{tier}' where id = 1");
    let (first, _) = done(node.sql(&set("gold")).await);
    node.stop().await;
    place.pass(-DAYS_400);
    let node = place.start().await;
    let (second, _) = done(node.sql(&set("silver")).await);
    let Reply::Refused(refusal) = node.undo(&[&first]).await else { panic!("undone below a later run") };
    let short = &second[second.len() - 4..];
    assert!(refusal.message.contains("by run") && refusal.message.contains(short), "names the later run: {refusal:?}");
    ended(node.undo(&[&first, &second]).await);
    assert_eq!(place.value("select tier from customers where id = 1"), json!("basic"));
}

#[tokio::test]
async fn fifty_times_too_fast_nothing_ends_early_and_the_record_is_in_order() {
    let place = configured("[approvals]\nexpire = \"2m\"");
    let node = place.start().await;
    let Reply::Checkpoint(kept) = node.operate(Request::Checkpoint).await else { panic!("no checkpoint") };
    place.run_at(50);
    let secret = token(&node, 120).await;
    let answered = pending(node.sql(ASKS).await);
    assert_eq!(ended(node.approve(&answered.approval.to_string()).await)[0].row.state, "settled");
    let waiting = pending(node.sql("delete from orders where id < 9").await);
    expires(&node, &waiting).await;
    until("the token ends", async || node.runtime.authenticate(&secret).is_err()).await;
    let view = node.show(&waiting.run.to_string()).await;
    let question = view.history.iter().find_map(|happened| match &happened.event {
        Event::Parked { question, .. } => Some(question.clone()),
        _ => None,
    });
    let question = question.unwrap();
    let ended = view.history.iter().find(|h| matches!(h.event, Event::Answered { answer: Answered::Expired })).unwrap();
    assert!(ended.at >= question.expires, "{} is before {}", ended.at, question.expires);
    // Back and forth, and it still goes on: nothing in the record is before what it follows.
    let mut last = ended.at;
    for days in [400, -800, 400, -400, 400] {
        place.pass(days * 24 * 3600);
        let (run, _) = done(node.sql("update customers set tier = 'gold' where id = 1").await);
        for happened in node.show(&run).await.history {
            assert!(happened.at >= last, "record {} at {} follows {last}", happened.seq, happened.at);
            last = happened.at;
        }
    }
    node.stop().await;
    for older in [None, Some(kept.as_str())] {
        turnback_journal::verify(&place.path("state"), older, None).unwrap();
    }
}
