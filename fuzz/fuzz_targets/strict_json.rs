//! Strict JSON: whatever is accepted means one thing to every reader, and nothing else is refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use turnback_core::json::{DEPTH_LIMIT, Numbers, Why, canonical, parse, parse_with};
use turnback_fuzz::harmless;

/// JSON as another reader sees it, with every key that was there.
#[derive(Debug)]
enum Tree {
    Leaf(Value),
    List(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Tree;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("JSON")
            }
            fn visit_bool<E>(self, v: bool) -> Result<Tree, E> {
                Ok(Tree::Leaf(v.into()))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Tree, E> {
                Ok(Tree::Leaf(v.into()))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Tree, E> {
                Ok(Tree::Leaf(v.into()))
            }
            fn visit_f64<E>(self, v: f64) -> Result<Tree, E> {
                Ok(Tree::Leaf(v.into()))
            }
            fn visit_str<E>(self, v: &str) -> Result<Tree, E> {
                Ok(Tree::Leaf(v.into()))
            }
            fn visit_unit<E>(self) -> Result<Tree, E> {
                Ok(Tree::Leaf(Value::Null))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = seq.next_element()? {
                    list.push(item);
                }
                Ok(Tree::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
                let mut object = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    object.push(pair);
                }
                Ok(Tree::Object(object))
            }
        }
        deserializer.deserialize_any(V)
    }
}

impl Tree {
    fn depth(&self) -> usize {
        match self {
            Tree::Leaf(_) => 0,
            Tree::List(list) => 1 + list.iter().map(Tree::depth).max().unwrap_or(0),
            Tree::Object(object) => 1 + object.iter().map(|(_, v)| v.depth()).max().unwrap_or(0),
        }
    }

    fn doubles(&self) -> bool {
        match self {
            Tree::Leaf(_) => false,
            Tree::List(list) => list.iter().any(Tree::doubles),
            Tree::Object(object) => {
                let mut keys: Vec<&str> = object.iter().map(|(k, _)| k.as_str()).collect();
                keys.sort_unstable();
                keys.windows(2).any(|w| w[0] == w[1]) || object.iter().any(|(_, v)| v.doubles())
            }
        }
    }

    /// The same values in the same order. The last digit of a fraction may differ: the other reader rounds.
    fn is(&self, value: &Value) -> bool {
        match (self, value) {
            (Tree::Leaf(a), b) => match (a.as_f64(), b.as_f64()) {
                (Some(a), Some(b)) => a == b || (a - b).abs() <= a.abs() * f64::EPSILON,
                _ => a == b,
            },
            (Tree::List(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.is(b)),
            (Tree::Object(a), Value::Object(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|((k, a), (l, b))| k == l && a.is(b))
            }
            _ => false,
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let other = serde_json::from_slice::<Tree>(data);
    let ours = parse(data);
    match (&ours, &other) {
        (Ok(value), Ok(tree)) => {
            assert!(!tree.doubles(), "a key that stands twice was accepted");
            assert!(tree.depth() <= DEPTH_LIMIT, "nested deeper than the limit");
            assert!(tree.is(value), "two readers see two documents: {tree:?} {value:?}");

            // What is hashed is what is forwarded: both spellings read back as the value they came from.
            let hashed = canonical(value);
            assert_eq!(parse(&hashed).as_ref(), Ok(value));
            assert_eq!(canonical(&parse(&hashed).unwrap()), hashed);
            let forwarded = value.to_string();
            assert_eq!(parse(forwarded.as_bytes()).as_ref(), Ok(value));
            assert_eq!(
                canonical(&serde_json::from_str(&forwarded).unwrap()),
                hashed,
                "the next reader would hash it otherwise"
            );
            assert_eq!(parse_with(data, Numbers::Any).as_ref(), Ok(value));
        }
        (Ok(value), Err(e)) => panic!("accepted what is no JSON ({e}): {value}"),
        (Err(error), other) => {
            assert!(error.offset <= data.len());
            harmless(&error.to_string());
            match (&error.why, other) {
                (Why::DuplicateKey(_), Ok(tree)) => assert!(tree.doubles() || parse_with(data, Numbers::Any).is_err()),
                (Why::TooDeep, Ok(tree)) => assert!(tree.depth() > DEPTH_LIMIT),
                (Why::InexactNumber(text), _) => {
                    // Whole numbers every reader holds exactly are never refused.
                    let exact = text.parse::<i64>().is_ok_and(|n| n.abs() <= 1 << 53) && text != "-0";
                    assert!(!exact, "{text} is exact");
                }
                (Why::Syntax(_) | Why::NotUtf8, Ok(tree)) => panic!("refused what is JSON: {error}: {tree:?}"),
                _ => {}
            }
        }
    }
    // Reading an envelope refuses the same, numbers aside.
    if let Err(error) = parse_with(data, Numbers::Any) {
        assert!(!matches!(error.why, Why::InexactNumber(_)));
        assert!(ours.is_err());
    }
});
