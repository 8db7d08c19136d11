//! A desk in memory: it really parks, joins and ends runs, and remembers what it was told.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::watch;
use turnback_core::contract::Actor;
use turnback_core::digest::Sha256;
use turnback_core::json;
use turnback_core::names::{AgentName, ApprovalId, EnvironmentName, ResourceName, RunId};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::rollback::Bearer;
use turnback_core::tool::{Kind, Match, Risk, Tool, ToolSpec, Verb};
use turnback_gateway::desk::{Answer, Call, Caller, Desk, Pending};

/// How a parked run stands.
#[derive(Clone, Debug, PartialEq)]
enum Standing {
    Waiting,
    Approved,
    Rejected,
}

struct Parked {
    pending: Pending,
    standing: watch::Sender<Standing>,
}

#[derive(Default)]
pub(crate) struct MemoryDesk {
    /// What came to be a call.
    pub(crate) calls: Mutex<Vec<Call>>,
    /// What was turned away.
    pub(crate) turned: Mutex<Vec<(&'static str, Option<Actor>, Refusal)>>,
    /// Calls finished, including those whose caller hung up.
    pub(crate) finished: AtomicU64,
    /// Ends that began to be marked as told, and those whose marking was not dropped.
    pub(crate) telling: AtomicU64,
    pub(crate) told: AtomicU64,
    parked: Mutex<HashMap<Sha256, Parked>>,
    next: AtomicU64,
}

pub(crate) fn caller(agent: &str) -> Caller {
    Caller {
        agent: AgentName::new(agent).unwrap(),
        on_behalf_of: None,
        assignment: turnback_core::contract::Assignment::default(),
    }
}

impl MemoryDesk {
    fn next(&self) -> uuid::Uuid {
        uuid::Uuid::from_u128(
            0x0192_0000_0000_7000_8000_0000_0000_0000 + u128::from(self.next.fetch_add(1, Ordering::SeqCst)),
        )
    }

    /// A person answers the only question there is.
    pub(crate) fn decide(&self, approve: bool) {
        let parked = self.parked.lock().unwrap();
        assert_eq!(parked.len(), 1, "one question is expected");
        for parked in parked.values() {
            parked.standing.send_replace(if approve { Standing::Approved } else { Standing::Rejected });
        }
    }

    /// The question that waits.
    pub(crate) fn question(&self) -> Pending {
        self.parked.lock().unwrap().values().next().unwrap().pending.clone()
    }

    /// Runs ever parked.
    pub(crate) fn parked(&self) -> usize {
        self.parked.lock().unwrap().len()
    }

    /// Places and sentences of everything turned away.
    pub(crate) fn refusals(&self) -> Vec<String> {
        self.turned.lock().unwrap().iter().map(|(_, _, refusal)| refusal.to_string()).collect()
    }

    fn ended(pending: &Pending, standing: &Standing) -> Answer {
        match standing {
            Standing::Waiting => Answer::Pending(pending.clone()),
            Standing::Approved => {
                Answer::Done { run: pending.run, reply: json!({ "rows": 3 }), note: None, constrained: None }
            }
            Standing::Rejected => Answer::Refused {
                run: Some(pending.run),
                refusal: Refusal::new(Code::Rejected, "a person said no"),
                details: json!({}),
            },
        }
    }
}

impl Desk for MemoryDesk {
    fn authenticate(&self, token: &str) -> Result<Caller, Refusal> {
        match token {
            "alice-secret" => Ok(caller("alice")),
            "bob-secret" => Ok(caller("bob")),
            _ => Err(Refusal::new(Code::Unauthenticated, "the token is unknown, expired or revoked")),
        }
    }

    fn tools(&self, _: &Caller) -> Vec<Tool> {
        let schema = json!({ "type": "object", "properties": { "sql": { "type": "string" } }, "required": ["sql"] });
        [
            ("query", Verb::Read, Risk::ScopedRead),
            ("execute", Verb::Update, Risk::ReversibleWrite),
            ("insert", Verb::Create, Risk::ReversibleWrite),
        ]
        .map(|(name, verb, risk)| {
            let spec = ToolSpec { name, description: "a tool", verb, risk, schema: schema.clone() };
            Tool::bind(
                &spec,
                &ResourceName::new("shop").unwrap(),
                Kind::Sqlite,
                &EnvironmentName::new("production").unwrap(),
                Match::Exact,
                Bearer::default(),
            )
            .unwrap()
        })
        .to_vec()
    }

    async fn call(&self, call: Call) -> Answer {
        self.calls.lock().unwrap().push(call.clone());
        let refused = |refusal| Answer::Refused { run: None, refusal, details: json!({ "gate": "input" }) };
        if !call.tool.starts_with("shop__") {
            return refused(Refusal::new(Code::UnknownTool, "no tool has that name").at(&call.tool));
        }
        let value = match json::parse(&call.arguments) {
            Ok(value) => value,
            Err(e) => return refused(Refusal::new(Code::BadInput, e.to_string()).at(format!("arguments{}", e.path))),
        };
        match value.pointer("/sql").and_then(Value::as_str) {
            Some("park") => {}
            Some("slow") => {
                tokio::time::sleep(Duration::from_millis(400)).await;
                self.finished.fetch_add(1, Ordering::SeqCst);
                return Answer::Done {
                    run: RunId::new(self.next()),
                    reply: json!({ "slow": true }),
                    note: None,
                    constrained: None,
                };
            }
            Some("panic") => panic!("asked for"),
            _ => {
                let note = (call.tool == "shop__execute").then(|| "it can be undone".to_owned());
                return Answer::Done {
                    run: RunId::new(self.next()),
                    reply: json!({ "echo": value }),
                    note,
                    constrained: None,
                };
            }
        }
        let mut stripped = value.clone();
        stripped.as_object_mut().unwrap().shift_remove("turnback");
        let digest = Sha256::of_parts(
            "test",
            [call.caller.agent.as_str().as_bytes(), call.tool.as_bytes(), &json::canonical(&stripped)],
        );
        let mut parked = self.parked.lock().unwrap();
        let entry = parked.entry(digest).or_insert_with(|| {
            let approval = ApprovalId::new(self.next());
            let pending = Pending {
                run: RunId::new(self.next()),
                approval,
                message: "update 3 rows of `customers`\u{202e}".into(),
                url: format!("http://127.0.0.1/approvals/{approval}"),
                expires: Timestamp::now() + SignedDuration::from_secs(600),
            };
            Parked { pending, standing: watch::Sender::new(Standing::Waiting) }
        });
        let standing = entry.standing.borrow().clone();
        Self::ended(&entry.pending, &standing)
    }

    async fn evaluate(
        &self,
        _: &Caller,
        _: &turnback_core::access::Evaluations,
    ) -> Result<Vec<turnback_core::decision::Verdict>, Refusal> {
        Err(Refusal::new(Code::Denied, "nobody may ask here"))
    }

    async fn wait(&self, caller: &Caller, pending: Pending, patience: Duration) -> Answer {
        assert_eq!(caller.agent.as_str(), "alice", "only the requester waits");
        let mut standing = {
            let parked = self.parked.lock().unwrap();
            parked.values().find(|parked| parked.pending.run == pending.run).unwrap().standing.subscribe()
        };
        let _ = tokio::time::timeout(patience, standing.wait_for(|standing| *standing != Standing::Waiting)).await;
        let standing = standing.borrow().clone();
        if standing != Standing::Waiting {
            // Marking it as told takes a moment, as with a journal; from here on the answer is owed.
            self.telling.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(150)).await;
            self.told.fetch_add(1, Ordering::SeqCst);
        }
        Self::ended(&pending, &standing)
    }

    fn turned(&self, door: &'static str, actor: Option<Actor>, refusal: &Refusal) {
        self.turned.lock().unwrap().push((door, actor, refusal.clone()));
    }

    // More generous than a desk may be: that the name must be whole is the door's promise.
    fn question_page(&self, approval: &str) -> Option<String> {
        let parked = self.parked.lock().unwrap();
        let wanted = approval.to_lowercase();
        let named = |parked: &&Parked| wanted.contains(parked.pending.approval.short().trim_start_matches("ap_"));
        let pending = &parked.values().find(named)?.pending;
        Some(format!("{}\nturnback approve {}\n", pending.message, pending.approval))
    }
}
