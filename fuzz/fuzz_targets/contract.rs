//! Contracts: the digest names exactly one action, and no target lies where it should not.
//!
//! Input: a byte that chooses the tool, then one or two argument texts separated by 0xFF.
#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use turnback_core::contract::{Contract, STATEMENT_ARGUMENT, Statement};
use turnback_core::json::{canonical, parse};
use turnback_core::tool::Kind;
use turnback_fuzz::World;

/// The next leaf after the `n`th is made another one.
fn altered(value: &mut Value, n: &mut usize) -> bool {
    match value {
        Value::Array(list) => list.iter_mut().any(|v| altered(v, n)),
        Value::Object(map) => map.iter_mut().any(|(_, v)| altered(v, n)),
        leaf => {
            if *n > 0 {
                *n -= 1;
                return false;
            }
            *leaf = match leaf {
                Value::String(text) => json!(format!("{text}x")),
                Value::Bool(flag) => json!(!*flag),
                Value::Number(n) if *n == 7.into() => json!(8),
                Value::Null => json!(7),
                _ => json!(7),
            };
            true
        }
    }
}

fn sound(contract: &Contract, text: &[u8]) {
    let world = World::get();
    let tool = world.tools.iter().find(|t| t.name == contract.tool).unwrap();
    let digest = contract.digest();
    assert!(contract.arguments.get(STATEMENT_ARGUMENT).is_none(), "what an agent says about itself is never forwarded");

    // The same bytes, and every other spelling of the same value.
    assert_eq!(world.parse(tool, text).unwrap(), *contract);
    let plain = world.parse(tool, &canonical(&contract.arguments)).unwrap();
    assert_eq!((plain.digest(), &plain.target), (digest, &contract.target));
    let pretty = serde_json::to_vec_pretty(&contract.arguments).unwrap();
    assert_eq!(world.parse(tool, &pretty).unwrap().digest(), digest);

    // What the agent says about it makes it no other action.
    let mut said = contract.arguments.clone();
    said[STATEMENT_ARGUMENT] = json!({ "intent": "trust me", "confidence": 1.0 });
    let said = world.parse(tool, said.to_string().as_bytes()).unwrap();
    assert_eq!((said.digest(), &said.arguments), (digest, &contract.arguments));
    assert_ne!(said.statement, Statement::default());

    // Anything else changed is another action.
    for n in 0..4 {
        let mut other = contract.arguments.clone();
        if !altered(&mut other, &mut n.clone()) {
            break;
        }
        if let Ok(other) = world.parse(tool, other.to_string().as_bytes()) {
            assert_ne!(other.digest(), digest, "{:?} {:?}", other.arguments, contract.arguments);
        }
    }
    let mut other = contract.clone();
    other.on_behalf_of = Some("anna".into());
    assert_ne!(other.digest(), digest);

    // A record brings it back whole.
    let back: Contract = serde_json::from_value(serde_json::to_value(contract).unwrap()).unwrap();
    assert_eq!((back.digest(), &back), (digest, contract));

    let place = &contract.target.place;
    if contract.kind == Kind::Files {
        let plain = |c: Component<'_>| matches!(c, Component::Normal(_));
        assert!(place == "." || Path::new(place).components().all(plain), "{place:?}");
        assert!(!place.contains('\0') && !place.contains("//"), "{place:?}");
    } else {
        let writes = !matches!(contract.target.statement.as_str(), "select" | "values" | "explain" | "");
        assert_eq!(writes, contract.local == "execute", "{:?}", contract.target);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = data.split_first() else { return };
    let world = World::get();
    let tool = world.tool(*choice);
    let texts: Vec<&[u8]> = rest.splitn(2, |b| *b == 0xff).collect();
    let contracts: Vec<_> = texts.iter().map(|text| world.parse(tool, text)).collect();
    for (text, contract) in texts.iter().zip(&contracts) {
        match contract {
            Ok(contract) => sound(contract, text),
            Err(refusal) => assert!(!refusal.message.is_empty()),
        }
    }
    // One digest, one action: and the other way round.
    if let [Ok(a), Ok(b)] = contracts.as_slice() {
        let forwarded = |text: &[u8]| {
            let mut value = parse(text).unwrap();
            value.as_object_mut().unwrap().shift_remove(STATEMENT_ARGUMENT);
            canonical(&value)
        };
        assert_eq!(a.digest() == b.digest(), forwarded(texts[0]) == forwarded(texts[1]));
    }
});
