//! A flag service that answers over HTTP as a test says, and misbehaves as some do.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "helpers of tests, and every test file uses a part of them"
)]

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

/// What a service does with a question.
#[derive(Clone, Debug)]
pub enum Act {
    /// Answers with a mode, at once.
    Mode(String),
    /// Has no such flag.
    NotFound,
    /// Answers with this status and JSON; `{{key}}` is the key.
    Json(u16, String),
    /// Sends these bytes and closes the connection.
    Bytes(Vec<u8>),
    /// Answers so many bytes of JSON.
    Long(usize),
    /// Begins an answer and goes on with one byte at a time, until nobody listens any more.
    Drip,
    /// Never answers.
    Hang,
    /// Answers with a mode when it is let go on.
    Held(String),
}

/// One question as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub key: String,
    pub headers: HashMap<String, String>,
    pub context: Value,
}

#[derive(Default)]
struct State {
    act: Option<Act>,
    by_key: HashMap<String, Act>,
    asked: Vec<Asked>,
    connections: Vec<TcpStream>,
    let_go: bool,
    stopped: bool,
}

pub struct Service {
    pub url: String,
    address: std::net::SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

fn lock(state: &(Mutex<State>, Condvar)) -> MutexGuard<'_, State> {
    state.0.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Service {
    /// Starts one that does the same with every question.
    pub fn start(act: Act) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), act)
    }

    /// Starts one at an address where one was before.
    pub fn at(address: std::net::SocketAddr, act: Act) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new((Mutex::new(State { act: Some(act), ..State::default() }), Condvar::new()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                {
                    let mut state = lock(&shared);
                    if state.stopped {
                        return;
                    }
                    state.connections.extend(stream.try_clone());
                }
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    while answered(&stream, &shared).unwrap_or(false) {}
                    // The other handle of it keeps it open otherwise.
                    let _ = stream.shutdown(std::net::Shutdown::Both);
                });
            }
        });
        Self { url: format!("http://{address}"), address, state }
    }

    pub fn address(&self) -> std::net::SocketAddr {
        self.address
    }

    /// From now on it does this with every question but those about single keys.
    pub fn does(&self, act: Act) {
        lock(&self.state).act = Some(act);
    }

    /// From now on it does this with questions about one key.
    pub fn does_with(&self, key: &str, act: Act) {
        lock(&self.state).by_key.insert(key.to_owned(), act);
    }

    /// Every question so far.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.state).asked.clone()
    }

    /// How often it was asked for a key.
    pub fn times(&self, key: &str) -> usize {
        lock(&self.state).asked.iter().filter(|asked| asked.key == key).count()
    }

    /// Waits until it was asked so many times.
    pub fn await_asked(&self, times: usize) {
        let guard = lock(&self.state);
        let patience = Duration::from_secs(30);
        let (guard, _) = self.state.1.wait_timeout_while(guard, patience, |state| state.asked.len() < times).unwrap();
        assert!(guard.asked.len() >= times, "asked {} times, not {times}", guard.asked.len());
    }

    /// Lets what is held go on.
    pub fn let_go(&self) {
        lock(&self.state).let_go = true;
        self.state.1.notify_all();
    }

    /// Nobody listens any more.
    pub fn stop(self) {}
}

impl Drop for Service {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.state);
            state.stopped = true;
            for connection in state.connections.drain(..) {
                let _ = connection.shutdown(std::net::Shutdown::Both);
            }
        }
        self.state.1.notify_all();
        // Wakes the listener, which then goes.
        let _ = TcpStream::connect(self.address);
        while TcpStream::connect(self.address).is_ok() {
            std::thread::yield_now();
        }
    }
}

/// Answers one question; whether another may come on this connection.
fn answered(mut stream: &TcpStream, state: &(Mutex<State>, Condvar)) -> std::io::Result<bool> {
    let mut read = BufReader::new(stream);
    let mut line = String::new();
    if read.read_line(&mut line)? == 0 {
        return Ok(false);
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        read.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    read.read_exact(&mut body)?;
    let key = path.strip_prefix("/ofrep/v1/evaluate/flags/").unwrap_or("?").to_owned();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let act = {
        let mut held = lock(state);
        held.asked.push(Asked { key: key.clone(), headers, context: body["context"].clone() });
        state.1.notify_all();
        held.by_key.get(&key).or(held.act.as_ref()).cloned().unwrap_or(Act::NotFound)
    };
    let json = |status: u16, body: &str| {
        let length = body.len();
        format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    let mode = |word: &str| {
        json(
            200,
            &json!({ "key": key, "reason": "STATIC", "variant": word, "value": word, "metadata": {} }).to_string(),
        )
    };
    match act {
        Act::Mode(word) => stream.write_all(mode(&word).as_bytes())?,
        Act::NotFound => {
            let body = json!({ "key": key, "errorCode": "FLAG_NOT_FOUND" }).to_string();
            stream.write_all(json(404, &body).as_bytes())?;
        }
        Act::Json(status, body) => stream.write_all(json(status, &body.replace("{{key}}", &key)).as_bytes())?,
        Act::Bytes(bytes) => {
            stream.write_all(&bytes)?;
            return Ok(false);
        }
        Act::Long(size) => {
            let body = json!({ "key": key, "value": "autonomous", "metadata": "x".repeat(size) }).to_string();
            stream.write_all(json(200, &body).as_bytes())?;
        }
        Act::Drip => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n{")?;
            loop {
                stream.write_all(b" ")?;
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Act::Hang => {
            let guard = lock(state);
            drop(state.1.wait_while(guard, |state| !state.stopped));
            return Ok(false);
        }
        Act::Held(word) => {
            let guard = lock(state);
            drop(state.1.wait_while(guard, |state| !state.let_go && !state.stopped));
            stream.write_all(mode(&word).as_bytes())?;
        }
    }
    Ok(true)
}
