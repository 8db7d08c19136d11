//! What to paste into an agent's client.
//!
//! The token never stands in the text: each client reads it from the environment or asks for it, so
//! that a configuration can be committed. Shapes as the clients read them in November 2026.

use serde_json::json;

/// The variable every snippet reads the token from.
pub(crate) const TOKEN_VARIABLE: &str = "TURNBACK_TOKEN";

/// A client a snippet is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Client {
    /// Claude Code
    ClaudeCode,
    /// Codex
    Codex,
    /// Cursor
    Cursor,
    /// Gemini CLI
    Gemini,
    /// VS Code
    Vscode,
    /// Any other MCP client
    Generic,
}

impl Client {
    /// All of them.
    pub(crate) const ALL: [Self; 6] =
        [Self::ClaudeCode, Self::Codex, Self::Cursor, Self::Gemini, Self::Vscode, Self::Generic];

    /// Its name and the file to write into.
    pub(crate) const fn place(self) -> &'static str {
        match self {
            Self::ClaudeCode => "Claude Code: .mcp.json in the project",
            Self::Codex => "Codex: ~/.codex/config.toml",
            Self::Cursor => "Cursor: .cursor/mcp.json in the project",
            Self::Gemini => "Gemini CLI: .gemini/settings.json in the project",
            Self::Vscode => "VS Code: .vscode/mcp.json in the project",
            Self::Generic => "Any MCP client: streamable HTTP",
        }
    }

    /// What to write there.
    pub(crate) fn snippet(self, url: &str) -> String {
        let bearer = |variable: &str| json!({ "Authorization": format!("Bearer {variable}") });
        let pretty = |value: serde_json::Value| serde_json::to_string_pretty(&value).unwrap_or_default();
        let http = |variable: &str| json!({ "type": "http", "url": url, "headers": bearer(variable) });
        match self {
            Self::ClaudeCode => pretty(json!({ "mcpServers": { "turnback": http("${TURNBACK_TOKEN}") } })),
            Self::Cursor => pretty(json!({ "mcpServers": { "turnback": http("${env:TURNBACK_TOKEN}") } })),
            Self::Gemini => pretty(json!({ "mcpServers": { "turnback": {
                "httpUrl": url, "headers": bearer("$TURNBACK_TOKEN"), "timeout": 120_000,
            } } })),
            Self::Vscode => pretty(json!({
                "inputs": [{ "type": "promptString", "id": "turnback-token", "description": "Turnback token", "password": true }],
                "servers": { "turnback": http("${input:turnback-token}") },
            })),
            Self::Codex => format!(
                "[mcp_servers.turnback]\nurl = \"{url}\"\nbearer_token_env_var = \"{TOKEN_VARIABLE}\"\ntool_timeout_sec = 120"
            ),
            Self::Generic => format!("url: {url}\nheader: Authorization: Bearer <the token>"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_snippet_can_be_pasted_as_it_is() {
        let url = "http://127.0.0.1:7423/mcp";
        let read = |client: Client| serde_json::from_str::<serde_json::Value>(&client.snippet(url)).unwrap();
        for (client, server, address, token) in [
            (Client::ClaudeCode, "/mcpServers/turnback", "url", "${TURNBACK_TOKEN}"),
            (Client::Cursor, "/mcpServers/turnback", "url", "${env:TURNBACK_TOKEN}"),
            (Client::Gemini, "/mcpServers/turnback", "httpUrl", "$TURNBACK_TOKEN"),
            (Client::Vscode, "/servers/turnback", "url", "${input:turnback-token}"),
        ] {
            let snippet = read(client);
            let server = snippet.pointer(server).unwrap();
            assert_eq!(server[address], url, "{client:?}");
            assert_eq!(server["headers"]["Authorization"], format!("Bearer {token}"), "{client:?}");
        }
        assert_eq!(read(Client::Vscode)["inputs"][0]["id"], "turnback-token");
        assert!(Client::Codex.snippet(url).contains("bearer_token_env_var = \"TURNBACK_TOKEN\""));
        assert!(Client::ALL.iter().all(|client| client.snippet(url).contains(url)));
    }
}
