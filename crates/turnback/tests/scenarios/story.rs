//! Plays one story. Besides what the story expects, holds for every story:
//! * what is refused, turned away or waits changes nothing, down to modes, times and rows;
//! * what only reads changes nothing;
//! * every refusal is recorded, with the words the caller heard;
//! * at the end the whole log verifies, against a checkpoint taken at the beginning too.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use turnback_gateway::runtime::user_name;

use super::Wrong;
use super::doors::{Answer, Doors, NotOpen};
use super::format::{Expect, Step, Story};
use super::place::{self, Place};
use super::record::Journal;

/// Reads a story.
pub(crate) fn read(file: &Path) -> Result<Story, Wrong> {
    let text = std::fs::read_to_string(file).map_err(|e| e.to_string())?;
    toml::from_str(&text).map_err(|e| format!("cannot be read: {e}"))
}

pub(crate) fn play(story: &Story) -> Result<(), Wrong> {
    if !story.after.says_something() {
        return Err("[after] says nothing about the world".into());
    }
    let told = |wrong| format!("{} ({})\n  {wrong}", story.title, story.about);
    let place = Place::make(&story.setup, &story.world).map_err(told)?;
    let before = place.picture().map_err(told)?;
    let mut player = Player::begin(story, &place).map_err(told)?;
    for (number, step) in story.steps.iter().enumerate() {
        // While paths are exchanged the step counts its times itself.
        let times = if step.swapping.is_some() { 1 } else { step.times.unwrap_or(1) };
        for _ in 0..times {
            player.step(step).map_err(|e| told(format!("step {} ({}): {e}", number + 1, name(step))))?;
        }
        if let Some(after) = &step.after {
            place
                .check(after, &before)
                .map_err(|e| told(format!("after step {} ({}): {e}", number + 1, name(step))))?;
        }
    }
    place.check(&story.after, &before).map_err(|e| told(format!("the world after: {e}")))?;
    player.end(story).map_err(|e| told(format!("the record after: {e}")))
}

fn name(step: &Step) -> String {
    match (&step.call, &step.http, &step.operator) {
        (Some(tool), ..) => format!("call {tool}"),
        (_, Some(line), _) => line.clone(),
        (.., Some(Value::String(line))) => format!("operator {line}"),
        (.., Some(request)) => format!("operator {}", request["op"].as_str().unwrap_or("?")),
        _ if step.cli.is_some() => {
            format!("turnback {}", step.cli.iter().flatten().cloned().collect::<Vec<_>>().join(" "))
        }
        _ if step.raw.is_some() => "raw bytes".into(),
        _ if step.hear_kept => "connections kept".into(),
        _ if step.restart => "restart".into(),
        _ if step.start_another => "start another".into(),
        _ if step.flag_service.is_some() => "flag service".into(),
        _ => "by hand".into(),
    }
}

pub(crate) struct Player<'a> {
    pub(crate) story: &'a Story,
    pub(crate) place: &'a Place,
    pub(crate) doors: Option<Doors>,
    /// Connections kept open.
    pub(crate) kept: Vec<std::net::TcpStream>,
    /// Tokens by agent.
    tokens: BTreeMap<String, String>,
    /// What `{{name}}` stands for.
    names: BTreeMap<String, String>,
    /// Messages of requests that became no run.
    pub(crate) turned: Vec<String>,
    checkpoint: String,
}

/// What an agent heard.
pub(crate) struct Heard<'a> {
    pub(crate) outcome: &'a str,
    pub(crate) run: Option<String>,
    /// `code`, `place`, `message`, when it was a refusal.
    pub(crate) refusal: &'a Value,
}

impl<'a> Heard<'a> {
    pub(crate) fn of(answer: &'a Answer) -> Self {
        let result = &answer.json["result"];
        let structured = &result["structuredContent"];
        let run = result["_meta"]["turnback"]["run"].as_str().map(str::to_owned);
        let (outcome, refusal) = match (&answer.json["error"], &result["isError"]) {
            (Value::Object(_), _) => ("error", &answer.json["error"]["data"]),
            (_, Value::Bool(false)) => ("done", &Value::Null),
            (_, Value::Bool(true)) if structured["code"] == "pending" => ("pending", structured),
            (_, Value::Bool(true)) => ("refused", structured),
            _ if answer.status == 0 => ("closed", &Value::Null),
            _ => ("answered", &Value::Null),
        };
        Self { outcome, run, refusal }
    }
}

impl<'a> Player<'a> {
    fn begin(story: &'a Story, place: &'a Place) -> Result<Self, Wrong> {
        let mut player = Self {
            story,
            place,
            doors: Some(Doors::open(place)?),
            kept: Vec::new(),
            tokens: BTreeMap::new(),
            names: BTreeMap::new(),
            turned: Vec::new(),
            checkpoint: String::new(),
        };
        player.names.insert("start".into(), jiff::Timestamp::now().to_string());
        player
            .names
            .insert("folder".into(), player.place.path("").display().to_string().trim_end_matches('/').to_owned());
        player.names.insert("user".into(), user_name(rustix::process::geteuid().as_raw()));
        for agent in &story.setup.agents {
            player.ask(&json!({ "op": "agent_add", "name": agent, "owner": "anna" }), "done")?;
            let token = json!({ "op": "token_new", "agent": agent, "on_behalf_of": null, "lifetime_seconds": 3_600 });
            let made = player.ask(&token, "token")?;
            let secret = made["secret"].as_str().unwrap_or_default().to_owned();
            player.names.insert(format!("token of {agent}"), secret.clone());
            player.names.insert(format!("token id of {agent}"), made["id"].as_str().unwrap_or_default().to_owned());
            player.tokens.insert(agent.clone(), secret);
        }
        let checkpoint = player.ask(&json!({ "op": "checkpoint" }), "checkpoint")?;
        player.checkpoint = checkpoint.as_str().unwrap_or_default().to_owned();
        Ok(player)
    }

    pub(crate) fn doors(&self) -> Result<&Doors, Wrong> {
        self.doors.as_ref().ok_or_else(|| "the node is stopped".into())
    }

    /// Asks as operator and insists on a kind of reply.
    fn ask(&self, request: &Value, reply: &str) -> Result<Value, Wrong> {
        let answer = self.doors()?.operator(&request.to_string())?;
        if answer["reply"] != reply {
            return Err(format!("{request}: a reply `{reply}` was expected: {answer}"));
        }
        Ok(answer["value"].clone())
    }

    /// `text` with `{{name}}` and `{{3*text}}` replaced.
    pub(crate) fn fill(&self, text: &str) -> Result<String, Wrong> {
        let mut out = String::new();
        let mut rest = text;
        while let Some((plain, tail)) = rest.split_once("{{") {
            out.push_str(plain);
            let Some((name, tail)) = tail.split_once("}}") else { return Err(format!("`{{{{` without end: {text}")) };
            match (name.split_once('*'), self.names.get(name)) {
                (_, Some(value)) => out.push_str(value),
                _ if name == "address" => out.push_str(self.doors()?.address()),
                (Some((count, what)), None) => {
                    out.push_str(&what.repeat(count.parse().map_err(|e| format!("{name}: {e}"))?));
                }
                (None, None) => return Err(format!("nothing was saved as `{name}`")),
            }
            rest = tail;
        }
        out.push_str(rest);
        Ok(out)
    }

    pub(crate) fn fill_json(&self, value: &Value) -> Result<Value, Wrong> {
        Ok(match value {
            Value::String(text) => Value::String(self.fill(text)?),
            Value::Array(list) => Value::Array(list.iter().map(|v| self.fill_json(v)).collect::<Result<_, _>>()?),
            Value::Object(map) => {
                let filled = map.iter().map(|(k, v)| Ok((k.clone(), self.fill_json(v)?)));
                Value::Object(filled.collect::<Result<_, Wrong>>()?)
            }
            other => other.clone(),
        })
    }

    fn step(&mut self, step: &Step) -> Result<(), Wrong> {
        let asks = [
            step.call.is_some(),
            step.http.is_some(),
            step.operator.is_some(),
            step.raw.is_some(),
            step.hear_kept,
            step.cli.is_some(),
        ];
        let acts = [
            step.by_hand.is_some() || step.restart,
            step.start_another,
            step.flag_service.is_some(),
            step.wait.is_some(),
        ];
        if asks.iter().chain(&acts).filter(|on| **on).count() != 1 {
            return Err("a step is exactly one of call, http, raw, hear_kept, operator, cli, by_hand and restart, \
                        start_another, flag_service, wait"
                .into());
        }
        let starts = step.restart || step.start_another;
        let said = [!step.expect.outcome.is_empty(), !step.expect.tally.is_empty(), !step.expect.any_of.is_empty()];
        if !starts && said.iter().filter(|on| **on).count() != usize::from(asks.contains(&true)) {
            return Err("every request says which outcome it expects, and only requests do".into());
        }
        if let Some(does) = &step.flag_service {
            self.place.flag_service(does)?;
        }
        if let Some(wait) = step.wait {
            std::thread::sleep(Duration::from_millis(wait));
        }
        if step.restart {
            self.doors.take().map_or(Ok(()), Doors::close)?;
        }
        if let Some(hand) = &step.by_hand {
            self.place.by_hand(hand)?;
        }
        if step.restart {
            self.place.configure(&self.story.setup, step.config.as_ref().unwrap_or(&self.story.setup.config))?;
        }
        if starts {
            return self.start(step);
        }
        if let Some([one, other]) = &step.swapping {
            return self.swapping(step, one, other);
        }
        let before = self.place.picture()?;
        if let Some(count) = step.at_once {
            return self.crowd(step, count, &before);
        }
        if let Some(arguments) = &step.cli {
            return self.cli(step, arguments, &before);
        }
        if step.raw.is_some() || step.hear_kept {
            return self.raw(step, &before);
        }
        if let Some(request) = &step.operator {
            return self.operator(step, request, &before);
        }
        if step.call.is_some() || step.http.is_some() {
            let answer = self.agent(step)?;
            self.heard(step, &answer, &before)
                .map_err(|e| format!("{e}\n  answer: {} {}", answer.status, answer.body))?;
        }
        Ok(())
    }

    /// Starts a node that must start, or must not.
    fn start(&mut self, step: &Step) -> Result<(), Wrong> {
        let expect = &step.expect;
        match (Doors::open(self.place), expect.outcome.as_str()) {
            (Ok(doors), "") if step.restart => self.doors = Some(doors),
            (Ok(_), _) => return Err("the node should not start, and does".into()),
            (Err(NotOpen::Refused(refusal)), "not_started") => {
                let told = serde_json::to_value(&refusal).map_err(|e| e.to_string())?;
                self.refusal(expect, &told)
                    .and_then(|()| self.texts(expect, &strings(&told)))
                    .map_err(|e| format!("{e}\n  refusal: {told}"))?;
            }
            (Err(not), _) => return Err(not.into()),
        }
        Ok(())
    }

    /// Sends what an agent sends.
    pub(crate) fn agent(&self, step: &Step) -> Result<Answer, Wrong> {
        let mut headers = BTreeMap::from([
            ("Host".to_owned(), self.doors()?.address().to_owned()),
            ("Content-Type".to_owned(), "application/json".to_owned()),
            ("Accept".to_owned(), "application/json".to_owned()),
        ]);
        let agent = step.agent.as_ref().or(self.story.setup.agents.first());
        let own = agent.and_then(|agent| self.tokens.get(agent)).cloned().unwrap_or_default();
        let token = step.token.as_ref().map_or(Ok(own), |token| self.fill(token))?;
        if !token.is_empty() {
            headers.insert("Authorization".into(), format!("Bearer {token}"));
        }
        let (line, body) = match (&step.call, &step.http) {
            (Some(tool), _) => {
                headers.insert("MCP-Protocol-Version".into(), "2026-07-28".into());
                headers.insert("Mcp-Method".into(), "tools/call".into());
                headers.insert("Mcp-Name".into(), tool.clone());
                let arguments = match (&step.arguments_text, &step.arguments) {
                    (Some(text), _) => self.fill(text)?,
                    (None, Some(arguments)) => self.fill_json(arguments)?.to_string(),
                    (None, None) => "{}".to_owned(),
                };
                let mut meta = json!({
                    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                    "io.modelcontextprotocol/clientCapabilities": {},
                });
                if let Some(trace) = &step.trace {
                    meta["traceparent"] = json!(trace);
                }
                let tool = json!(tool);
                let params = format!(r#"{{"_meta":{meta},"name":{tool},"arguments":{arguments}}}"#);
                let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
                ("POST /mcp".to_owned(), body.into_bytes())
            }
            (None, line) => {
                let body = match (&step.body_hex, &step.body) {
                    (Some(digits), _) => unhex(digits)?,
                    (None, body) => self.fill(body.as_deref().unwrap_or_default())?.into_bytes(),
                };
                (self.fill(line.as_deref().unwrap_or_default())?, body)
            }
        };
        for (name, value) in &step.headers {
            headers.insert(name.clone(), self.fill(value)?);
        }
        headers.retain(|_, value| !value.is_empty());
        let headers: Vec<_> = headers.into_iter().collect();
        self.doors()?.http(&line, &headers, &body)
    }

    pub(crate) fn heard(&mut self, step: &Step, answer: &Answer, before: &place::Picture) -> Result<(), Wrong> {
        let expect = &step.expect;
        let heard = Heard::of(answer);
        expected("outcome", Some(expect.outcome.as_str()), heard.outcome)?;
        expected("status", Some(expect.status.unwrap_or(200)), answer.status)?;
        if let Some(rpc) = expect.rpc {
            expected("JSON-RPC error", Some(rpc), answer.json["error"]["code"].as_i64().unwrap_or(0))?;
        }
        self.refusal(expect, heard.refusal)?;
        self.texts(expect, &format!("{}\n{}", strings(&answer.json), answer.body))?;
        self.contains(expect, &answer.json)?;

        let view = match &heard.run {
            Some(run) => Some(self.ask(&json!({ "op": "show", "run": run }), "run")?),
            None => None,
        };
        match &view {
            Some(view) => self.run(expect, view)?,
            None if speaks_of_a_run(expect) => return Err("there is no run".into()),
            None => {}
        }
        let refused = matches!(heard.outcome, "refused" | "error");
        if let Some(message) = heard.refusal["message"].as_str().filter(|_| refused && heard.run.is_none()) {
            self.turned.push(message.to_owned());
        } else if heard.outcome == "error" || (refused && heard.run.is_none()) {
            return Err("a refusal without a message".into());
        }
        let reads = view.as_ref().is_some_and(|view| view["effect"].is_null());
        if (heard.outcome != "done" || reads) && !expect.changes {
            place::same(before, &self.place.picture()?)?;
        }
        if let Some(name) = &step.save {
            let question = &view.as_ref().map_or(&Value::Null, |v| &v["question"])["id"];
            for (part, value) in [
                ("", heard.run.as_deref()),
                (" approval", question.as_str()),
                (" session", answer.session.as_deref()),
                (" url", heard.refusal["url"].as_str()),
                (" plan", answer.json["result"]["structuredContent"]["plan"].as_str()),
            ] {
                if let Some(value) = value {
                    self.names.insert(format!("{name}{part}"), value.to_owned());
                }
            }
        }
        Ok(())
    }

    fn operator(&mut self, step: &Step, request: &Value, before: &place::Picture) -> Result<(), Wrong> {
        let expect = &step.expect;
        let line = match self.fill_json(request)? {
            Value::String(line) => line,
            request => request.to_string(),
        };
        let answer = self.doors()?.operator(&line)?;
        let value = &answer["value"];
        let view = match value {
            Value::Array(views) if answer["reply"] == "ended" => views.first().unwrap_or(&Value::Null),
            value => value,
        };
        let check = || -> Result<(), Wrong> {
            expected("reply", Some(expect.outcome.as_str()), answer["reply"].as_str().unwrap_or_default())?;
            if answer["reply"] == "refused" {
                self.refusal(expect, value)?;
                place::same(before, &self.place.picture()?)?;
            }
            self.texts(expect, &strings(&answer))?;
            self.contains(expect, value)?;
            if speaks_of_a_run(expect) { self.run(expect, view) } else { Ok(()) }
        };
        check().map_err(|e| format!("{e}\n  {line}\n  reply: {answer}"))?;
        if let Some(name) = &step.save {
            for (part, value) in [
                ("", &view["row"]["run"]),
                (" approval", &view["question"]["id"]),
                (" id", &value["id"]),
                (" secret", &value["secret"]),
            ] {
                if let Some(value) = value.as_str() {
                    self.names.insert(format!("{name}{part}"), value.to_owned());
                }
            }
        }
        Ok(())
    }

    pub(crate) fn refusal(&self, expect: &Expect, refusal: &Value) -> Result<(), Wrong> {
        let word = |field: &str| refusal[field].as_str().unwrap_or_default();
        expected("code", expect.code.as_deref(), word("code"))?;
        let place = expect.place.as_ref().map(|place| self.fill(place)).transpose()?;
        expected("place", place.as_deref(), word("place"))?;
        if let Some(gate) = &expect.gate {
            let gates = refusal["details"]["gates"].as_array().cloned().unwrap_or_default();
            if !gates.iter().any(|g| g["gate"] == json!(gate)) {
                return Err(format!("gate `{gate}` should have said no: {}", json!(gates)));
            }
        }
        Ok(())
    }

    pub(crate) fn texts(&self, expect: &Expect, told: &str) -> Result<(), Wrong> {
        for text in expect.text.all() {
            let text = self.fill(text)?;
            if !told.contains(&text) {
                return Err(format!("it should say {text:?}"));
            }
        }
        for text in expect.not_text.all() {
            let text = self.fill(text)?;
            if told.contains(&text) {
                return Err(format!("it should not say {text:?}"));
            }
        }
        Ok(())
    }

    fn contains(&self, expect: &Expect, found: &Value) -> Result<(), Wrong> {
        expect.json.as_ref().map_or(Ok(()), |wanted| within(&self.fill_json(wanted)?, found, "answer"))
    }

    /// What the operator's view says about the run.
    fn run(&self, expect: &Expect, view: &Value) -> Result<(), Wrong> {
        expected("state", expect.state.as_deref(), view["row"]["state"].as_str().unwrap_or_default())?;
        expected("level", expect.level.map(u64::from), view["level"].as_u64().unwrap_or(99))?;
        expected("effect", expect.effect.as_deref(), view["effect"]["summary"].as_str().unwrap_or_default())?;
        if let Some(blast) = &expect.blast {
            within(blast, &view["effect"]["blast"], "blast")?;
        }
        let diff = view["diff"].as_str().unwrap_or_default();
        for text in expect.diff.all() {
            if !diff.contains(text) {
                return Err(format!("the diff should show {text:?}:\n{diff}"));
            }
        }
        Ok(())
    }

    fn end(mut self, story: &Story) -> Result<(), Wrong> {
        let all = json!({ "op": "runs", "agent": null, "state": null, "limit": 10_000 });
        let rows = self.ask(&all, "runs")?;
        let rows = rows.as_array().cloned().unwrap_or_default();
        let states: Vec<&str> = rows.iter().rev().filter_map(|row| row["state"].as_str()).collect();
        let list = || {
            let line = |row: &Value| format!("\n    {} {}: {}", row["state"], row["tool"], row["summary"]);
            rows.iter().rev().map(line).collect::<String>()
        };
        if !story.record.fits(&states) {
            return Err(format!("the runs should be {:?}, are {states:?}:{}", story.record.runs, list()));
        }
        self.doors.take().map_or(Ok(()), Doors::close)?;
        let state = self.place.own("state");
        turnback_journal::verify(&state, Some(&self.checkpoint), None).map_err(|e| format!("verify: {e}"))?;
        let journal = Journal::read(&state)?;
        for message in &self.turned {
            if !journal.turned_away(message) {
                return Err(format!("a request that was turned away is not recorded: {message}"));
            }
        }
        journal.check(&story.record)
    }
}

fn speaks_of_a_run(expect: &Expect) -> bool {
    expect.state.is_some()
        || expect.level.is_some()
        || expect.effect.is_some()
        || expect.blast.is_some()
        || !expect.diff.all().is_empty()
}

pub(crate) fn expected<T: PartialEq + std::fmt::Debug>(what: &str, wanted: Option<T>, found: T) -> Result<(), Wrong> {
    match wanted {
        Some(wanted) if wanted != found => Err(format!("{what}: expected {wanted:?}, found {found:?}")),
        _ => Ok(()),
    }
}

/// Whether everything in `wanted` is in `found`; further keys of objects are not looked at.
fn within(wanted: &Value, found: &Value, place: &str) -> Result<(), Wrong> {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => wanted.iter().try_for_each(|(key, value)| {
            within(value, found.get(key).unwrap_or(&Value::Null), &format!("{place}.{key}"))
        }),
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            let mut pairs = wanted.iter().zip(found).enumerate();
            pairs.try_for_each(|(i, (wanted, found))| within(wanted, found, &format!("{place}[{i}]")))
        }
        _ if wanted == found => Ok(()),
        _ => Err(format!("{place}: expected {wanted}, found {found}")),
    }
}

/// All texts in a JSON value, one a line.
pub(crate) fn strings(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text}\n"),
        Value::Array(list) => list.iter().map(strings).collect(),
        Value::Object(map) => map.values().map(strings).collect(),
        _ => String::new(),
    }
}

fn unhex(digits: &str) -> Result<Vec<u8>, Wrong> {
    let digits: Vec<u8> = digits.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect::<Option<_>>()
        .ok_or_else(|| "body_hex is not hexadecimal".to_owned())
}
