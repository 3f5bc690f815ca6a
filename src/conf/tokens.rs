//! The grammar of alloc-conf strings, borrowed from the input and blind to what keys mean:
//!
//! ```text
//! conf  := [ entry { "," entry } [ "," ] ]
//! entry := key ":" value
//! value := word | "[" item { "," item } [ "," ] "]"
//! item  := word [ ":" word ]
//! ```
//! A word is any run of characters other than `,` `:` `[` `]` and ASCII whitespace;
//! whitespace may stand anywhere between tokens and nowhere inside a word.

use std::fmt;
use std::iter::Peekable;

use crate::base::{Error, Result};

/// A value as written.
#[derive(Debug)]
pub(super) enum Raw<'a> {
    Word(&'a str),
    List(Vec<Item<'a>>),
}

/// One item of a list: `name` or `name:value`.
#[derive(Debug)]
pub(super) struct Item<'a> {
    pub(super) name: &'a str,
    pub(super) value: Option<&'a str>,
}

impl<'a> Raw<'a> {
    /// The word, or why a list will not do.
    pub(super) fn word(&self) -> Result<&'a str, String> {
        match self {
            Self::Word(word) => Ok(word),
            Self::List(_) => Err("a list in '[' ']' is not a value of this key".into()),
        }
    }
}

pub(super) fn conf_error(key: impl fmt::Display, reason: impl Into<String>) -> Error {
    Error::Conf { key: key.to_string(), reason: reason.into() }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Comma,
    Colon,
    Open,
    Close,
    Word(&'a str),
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Comma => ",",
            Self::Colon => ":",
            Self::Open => "[",
            Self::Close => "]",
            Self::Word(word) => word,
        })
    }
}

/// What C's `isspace` says of ASCII, so that PyTorch and we skip the same characters.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

fn separator(c: char) -> Option<Token<'static>> {
    match c {
        ',' => Some(Token::Comma),
        ':' => Some(Token::Colon),
        '[' => Some(Token::Open),
        ']' => Some(Token::Close),
        _ => None,
    }
}

struct Tokens<'a>(&'a str);

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let text = self.0.trim_start_matches(is_space);
        let first = text.chars().next()?;
        if let Some(token) = separator(first) {
            // Every separator is one byte.
            self.0 = &text[1..];
            return Some(token);
        }
        let end = text.find(|c| is_space(c) || separator(c).is_some()).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        self.0 = rest;
        Some(Token::Word(word))
    }
}

/// Hands out keys and values in turn, so that the caller can refuse an unknown key before its
/// value is looked at.
pub(super) struct Reader<'a>(Peekable<Tokens<'a>>);

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self(Tokens(text).peekable())
    }

    /// The next key, `None` at the end of the text.
    pub(super) fn key(&mut self) -> Result<Option<&'a str>> {
        match self.0.next() {
            None => Ok(None),
            Some(Token::Word(key)) => match self.0.peek() {
                Some(&Token::Word(second)) => Err(conf_error(
                    format!("{key} {second}"),
                    "whitespace inside a key is not accepted; separate entries with ','",
                )),
                _ => Ok(Some(key)),
            },
            Some(Token::Comma) => Err(conf_error(
                ",",
                "a leading or doubled comma is not accepted; only one trailing comma is",
            )),
            Some(other) => Err(conf_error(other, "an entry starts with a key, as in KEY:VALUE")),
        }
    }

    /// The `:` and the value after `key`, and the comma behind it if there is one.
    pub(super) fn value(&mut self, key: &str) -> Result<Raw<'a>> {
        match self.0.next() {
            Some(Token::Colon) => {}
            None => return Err(conf_error(key, format!("no value; write {key}:VALUE"))),
            Some(other) => {
                return Err(conf_error(
                    key,
                    format!("found '{other}' in place of ':'; write {key}:VALUE"),
                ));
            }
        }
        let raw = self.raw(key)?;
        match self.0.next() {
            None | Some(Token::Comma) => Ok(raw),
            Some(other) => Err(after_value(key, other)),
        }
    }

    /// A value that is the whole text.
    pub(super) fn only_value(mut self, key: &str) -> Result<Raw<'a>> {
        let raw = self.raw(key)?;
        match self.0.next() {
            None => Ok(raw),
            Some(other) => Err(after_value(key, other)),
        }
    }

    fn raw(&mut self, key: &str) -> Result<Raw<'a>> {
        match self.0.next() {
            Some(Token::Word(word)) => Ok(Raw::Word(word)),
            Some(Token::Open) => self.items(key).map(Raw::List),
            Some(other) => Err(conf_error(key, format!("a value is missing before '{other}'"))),
            None => Err(conf_error(key, format!("no value; write {key}:VALUE"))),
        }
    }

    /// The items of a list whose `[` has been read.
    fn items(&mut self, key: &str) -> Result<Vec<Item<'a>>> {
        let unclosed = || conf_error(key, "the list has no closing ']'");
        let unexpected =
            |token: Token<'_>| conf_error(key, format!("'{token}' is out of place in the list"));
        let mut items = Vec::new();
        loop {
            let name = match self.0.next().ok_or_else(unclosed)? {
                Token::Word(name) => name,
                Token::Close if items.is_empty() => {
                    return Err(conf_error(key, "an empty list is not accepted; omit the key"));
                }
                Token::Close => return Ok(items),
                other => return Err(unexpected(other)),
            };
            let mut next = self.0.next().ok_or_else(unclosed)?;
            let mut value = None;
            if next == Token::Colon {
                match self.0.next().ok_or_else(unclosed)? {
                    Token::Word(word) => value = Some(word),
                    other => return Err(unexpected(other)),
                }
                next = self.0.next().ok_or_else(unclosed)?;
            }
            items.push(Item { name, value });
            match next {
                Token::Comma => {}
                Token::Close => return Ok(items),
                other => return Err(unexpected(other)),
            }
        }
    }
}

fn after_value(key: &str, found: Token<'_>) -> Error {
    conf_error(
        key,
        match found {
            Token::Word(word) => {
                format!("whitespace inside the value, before '{word}', is not accepted")
            }
            other => format!("found '{other}' after the value; separate entries with ','"),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_separators_and_whitespace_split_as_documented() {
        let tokens: Vec<_> = Tokens(" a\t:\u{b}[b , \r\nc_1]é ").map(|t| t.to_string()).collect();
        assert_eq!(tokens, ["a", ":", "[", "b", ",", "c_1", "]", "é"]);
    }

    #[test]
    fn lists_take_a_trailing_comma_and_bare_items() {
        let Raw::List(items) = Reader::new("[a:1, b,]").only_value("k").unwrap() else {
            panic!("a list")
        };
        assert_eq!((items[0].name, items[0].value), ("a", Some("1")));
        assert_eq!((items[1].name, items[1].value), ("b", None));
    }

    #[test]
    fn malformed_values_say_what_is_out_of_place() {
        for (text, part) in [
            ("", "no value"),
            (",", "missing before ','"),
            ("[", "no closing"),
            ("[a", "no closing"),
            ("[a:", "no closing"),
            ("[a:1", "no closing"),
            ("[]", "empty list"),
            ("[,]", "',' is out of place"),
            ("[a::1]", "':' is out of place"),
            ("[a b]", "'b' is out of place"),
            ("[[a]]", "'[' is out of place"),
            ("[a]]", "found ']' after"),
            ("6 4", "whitespace inside"),
            ("1:2", "found ':' after"),
        ] {
            let error = Reader::new(text).only_value("k").unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
