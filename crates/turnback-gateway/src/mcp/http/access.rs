//! AuthZEN 1.0 over HTTP: its addresses, its answers and, for what goes wrong, RFC 9457 problem details.

use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use turnback_core::access::Evaluations;
use turnback_core::decision::{Ruling, Verdict};
use turnback_core::refusal::{Code, Refusal};

use super::body::Body;
use super::{Door, Turned, json_response};
use crate::desk::Desk;
use crate::mcp::message::{INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, RpcError};

const ONE: &str = "/access/v1/evaluation";
const SEVERAL: &str = "/access/v1/evaluations";
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Whether an address is one of these.
pub(super) fn is_about(path: &str) -> bool {
    [ONE, SEVERAL].contains(&path)
}

impl<D: Desk> Door<D> {
    /// Answers a request at one of these addresses.
    pub(super) async fn access(&self, request: Request<Incoming>) -> Result<Response<Body>, Turned> {
        let path = request.uri().path().to_owned();
        if request.method() != Method::POST {
            let mut response = super::plain(StatusCode::METHOD_NOT_ALLOWED);
            response.headers_mut().insert("allow", HeaderValue::from_static("POST"));
            return Ok(response);
        }
        let caller =
            self.authenticate(request.headers()).map_err(|error| Turned::new(StatusCode::UNAUTHORIZED, error))?;
        let turned = |status, code, refusal| Turned::new(status, RpcError::new(code, refusal)).of(&caller);
        let (headers, bytes, _place) = self.read(request, &caller).await?;
        let asked = if path == ONE { Evaluations::one(&bytes) } else { Evaluations::parse(&bytes) };
        let asked = asked.map_err(|refusal| turned(StatusCode::BAD_REQUEST, INVALID_PARAMS, refusal))?;
        let verdicts = self.server.desk.evaluate(&caller, &asked).await.map_err(|refusal| match refusal.code {
            Code::Denied => turned(StatusCode::FORBIDDEN, INVALID_REQUEST, refusal),
            Code::Unavailable => turned(StatusCode::SERVICE_UNAVAILABLE, INTERNAL_ERROR, refusal),
            _ => turned(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL_ERROR, refusal),
        })?;
        let answers: Vec<Value> = verdicts.iter().map(answer).collect();
        let text = match answers.as_slice() {
            [one] if asked.single => one.to_string(),
            all => json!({ "evaluations": all }).to_string(),
        };
        let mut response = json_response(StatusCode::OK, text);
        if let Some(id) = headers.get(REQUEST_ID) {
            response.headers_mut().insert(REQUEST_ID, id.clone());
        }
        response.headers_mut().insert("cache-control", HeaderValue::from_static("no-store"));
        Ok(response)
    }
}

/// Yes is `allow` and nothing else: an enforcement point elsewhere can neither narrow nor ask a person for us.
fn answer(verdict: &Verdict) -> Value {
    let mut context = json!({
        "gate": verdict.gate, "ruling": verdict.ruling, "reason": verdict.reason, "rules": verdict.rules,
    });
    if let Some(next) = &verdict.next {
        context["next"] = json!(next);
    }
    json!({ "decision": verdict.ruling == Ruling::Allow, "context": context })
}

/// A refusal as problem details.
pub(super) fn problem(status: StatusCode, refusal: &Refusal) -> String {
    let mut problem = json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "detail": refusal.to_string(),
        "code": refusal.code,
    });
    for (key, value) in [("place", &refusal.place), ("next", &refusal.next)] {
        if let Some(value) = value {
            problem[key] = json!(value);
        }
    }
    problem.to_string()
}
