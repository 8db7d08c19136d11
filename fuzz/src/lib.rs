//! What the fuzz targets share: a small world of one folder and one database, and bytes taken apart.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use turnback_core::contract::{Actor, Contract};
use turnback_core::names::{AgentName, EnvironmentName, ResourceName};
use turnback_core::refusal::Refusal;
use turnback_core::rollback::Bearer;
use turnback_core::tool::{Kind, Match, Tool};
use turnback_effects::{Domain, registry};

/// One folder, one database, and their tools as an operator binds them.
pub struct World {
    _dir: tempfile::TempDir,
    pub tools: Vec<Tool>,
    files: Arc<dyn Domain>,
    sqlite: Arc<dyn Domain>,
}

impl World {
    /// The one world of this process.
    pub fn get() -> &'static World {
        static WORLD: OnceLock<World> = OnceLock::new();
        WORLD.get_or_init(World::make)
    }

    fn make() -> World {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("work")).unwrap();
        rusqlite::Connection::open(at("shop.db"))
            .unwrap()
            .execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY)")
            .unwrap();
        let open = |kind, place: &Path| registry::open(kind, place, &at("slots")).unwrap();
        let (files, sqlite) = (open(Kind::Files, &at("work")), open(Kind::Sqlite, &at("shop.db")));
        let environment = EnvironmentName::new("production").unwrap();
        let mut tools = Vec::new();
        for (kind, name) in [(Kind::Files, "work"), (Kind::Sqlite, "shop")] {
            let resource = ResourceName::new(name).unwrap();
            for spec in registry::specs(kind) {
                tools.push(Tool::bind(&spec, &resource, kind, &environment, Match::Exact, Bearer::Operator).unwrap());
            }
        }
        World { _dir: dir, tools, files, sqlite }
    }

    /// The tool a byte chooses.
    pub fn tool(&self, byte: u8) -> &Tool {
        &self.tools[usize::from(byte) % self.tools.len()]
    }

    /// A call of `coder`, with the target resolved by the real domain.
    pub fn parse(&self, tool: &Tool, arguments: &[u8]) -> Result<Contract, Refusal> {
        let domain = match tool.kind {
            Kind::Files => &self.files,
            Kind::Sqlite => &self.sqlite,
        };
        let actor = Actor::Agent(AgentName::new("coder").unwrap());
        Contract::parse(tool, actor, None, arguments, None, |local, value| domain.aim(local, value))
    }
}

/// Takes numbers from the front of the input; zeros once it is used up.
pub struct Bytes<'a>(pub &'a [u8]);

impl Bytes<'_> {
    pub fn u8(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Nothing that is shown may hold what steers a terminal or misleads a reader.
pub fn harmless(text: &str) {
    let bad = text.chars().find(|c| {
        c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    });
    assert_eq!(bad, None, "{text:?}");
}
