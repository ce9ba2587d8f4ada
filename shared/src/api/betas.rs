//! Reads the header `anthropic-beta`, with which Anthropic's clients turn on features of their requests. Which of them
//! reach a provider is decided in `provider/anthropic.rs`.

use http::HeaderMap;

use super::ApiError;

/// Most betas of one request: clients send up to ten.
const MAX_BETAS: usize = 16;

/// Most characters of a beta's name; today's have up to forty.
const MAX_NAME: usize = 64;

/// The names of the betas of a request, each once.
pub(super) fn read(headers: &HeaderMap) -> Result<Vec<String>, ApiError> {
    let mut betas: Vec<String> = Vec::new();
    for value in headers.get_all("anthropic-beta") {
        let text = value.to_str().map_err(|_| bad("a value that is not visible ASCII"))?;
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            if name.len() > MAX_NAME || !name.bytes().all(is_allowed) {
                return Err(bad(&format!("{:?}", name.chars().take(MAX_NAME).collect::<String>())));
            }
            if !betas.iter().any(|beta| beta == name) {
                betas.push(name.to_owned());
            }
        }
    }
    if betas.len() > MAX_BETAS { Err(bad(&format!("{} names", betas.len()))) } else { Ok(betas) }
}

fn bad(what: &str) -> ApiError {
    ApiError::value(
        "anthropic-beta",
        format!(
            "{what}; allowed: at most {MAX_BETAS} names of at most {MAX_NAME} letters, digits, '-', '_' and '.'"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn betas_are_read_from_every_header_and_checked() {
        let check = |values: &[&str], expected: Result<&[&str], ()>| {
            let headers =
                values.iter().map(|value| ("anthropic-beta".parse().unwrap(), value.parse().unwrap()));
            let betas = read(&headers.collect()).map_err(drop);
            let expected =
                expected.map(|names| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
            assert_eq!(betas, expected, "{values:?}");
        };
        check(&["a-2025-01-01, b", "b,c"], Ok(&["a-2025-01-01", "b", "c"]));
        check(&[], Ok(&[]));
        check(&["a b"], Err(()));
        check(&["a\"}"], Err(()));
        check(&[&"x".repeat(65)], Err(()));
        check(&[&(0..17).map(|n| n.to_string()).collect::<Vec<_>>().join(",")], Err(()));
    }
}
