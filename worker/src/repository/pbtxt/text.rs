//! The text as a message.
//!
//! The text format lets the colon before a list of messages be left out, as Triton's own examples do; the
//! library wants it, so it is put in first. Format: protobuf.dev/reference/protobuf/textformat-spec.

use std::borrow::Cow;
use std::sync::LazyLock;

use forebay_proto::MODEL_CONFIG_DESCRIPTORS;
use forebay_proto::inference::ModelConfig;
use miette::Diagnostic;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

static MESSAGE: LazyLock<MessageDescriptor> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(MODEL_CONFIG_DESCRIPTORS);
    let pool = pool.expect("the descriptors are made from the same files as the messages");
    pool.get_message_by_name("inference.ModelConfig")
        .expect("the descriptors hold the model configuration")
});

/// Bytes of a file; those of large models have some thousands.
pub const LONGEST: usize = 1 << 20;
/// Messages and lists in each other. The message itself needs fewer than ten; the library's parser calls itself
/// for each.
const DEEPEST: usize = 64;

/// # Errors
/// "line N: what is wrong there"
pub(super) fn parse(text: &str) -> Result<ModelConfig, String> {
    short_enough(text)?;
    if let Some(line) = too_deep(text) {
        return Err(format!(
            "line {line}: more than {DEEPEST} brackets are open"
        ));
    }
    let text = with_colons(text);
    let read = DynamicMessage::parse_text_format(MESSAGE.clone(), &text).map_err(|error| {
        let mut labels = error.labels().into_iter().flatten();
        let offset = labels.next().map_or(text.len(), |label| label.offset());
        let before = text.as_bytes().iter().take(offset);
        let line = before.filter(|byte| **byte == b'\n').count() + 1;
        format!("line {line}: {error}")
    })?;
    read.transcode_to().map_err(|error| error.to_string())
}

/// The same message as JSON, in the mapping that protobuf defines, as clients send it.
///
/// # Errors
/// What is wrong, and where.
pub(super) fn parse_json(text: &str) -> Result<ModelConfig, String> {
    short_enough(text)?;
    // It refuses by itself what is too deep for it.
    let mut json = serde_json::Deserializer::from_str(text);
    let read = DynamicMessage::deserialize(MESSAGE.clone(), &mut json);
    let read = read.and_then(|message| json.end().map(|()| message));
    let read = read.map_err(|error| error.to_string())?;
    read.transcode_to().map_err(|error| error.to_string())
}

fn short_enough(text: &str) -> Result<(), String> {
    let bytes = text.len();
    if bytes <= LONGEST {
        return Ok(());
    }
    Err(format!(
        "line 1: it has {bytes} bytes, expected at most {LONGEST}"
    ))
}

/// The line on which more brackets of any kind are open than may be. What a string or comment holds does not
/// count: the parser ends at the first string that it does not read as one, so they are the same for both.
fn too_deep(text: &str) -> Option<usize> {
    let (mut depth, mut line, mut quote) = (0_usize, 1, None);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        line += usize::from(byte == b'\n');
        match (quote, byte) {
            (Some(_), b'\\') => {
                bytes.next();
            }
            (Some(open), _) if open == byte => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'#') => {
                bytes.find(|byte| *byte == b'\n');
                line += 1;
            }
            (None, b'{' | b'[' | b'<') => depth += 1,
            (None, b'}' | b']' | b'>') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
        if depth > DEEPEST {
            return Some(line);
        }
    }
    None
}

/// `input [` becomes `input: [`; strings and comments stay as they are, and so do the lines.
fn with_colons(text: &str) -> Cow<'_, str> {
    let mut lists = Vec::new();
    let mut quote = None;
    let mut last = ' ';
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match (quote, character) {
            (Some(_), '\\') => {
                characters.next();
            }
            (Some(open), _) if open == character => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => {
                quote = Some(character);
                last = character;
            }
            (None, '#') => {
                characters.find(|(_, character)| *character == '\n');
            }
            (None, _) => {
                if character == '[' && (last.is_ascii_alphanumeric() || last == '_') {
                    lists.push(at);
                }
                if !character.is_whitespace() {
                    last = character;
                }
            }
        }
    }
    if lists.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut whole = String::with_capacity(text.len() + lists.len());
    let mut from = 0;
    for list in lists {
        whole.push_str(&text[from..list]);
        whole.push(':');
        from = list;
    }
    whole.push_str(&text[from..]);
    Cow::Owned(whole)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_of_messages_need_no_colon() {
        assert_eq!(with_colons("input [{}] dims: [1]"), "input :[{}] dims: [1]");
        assert_eq!(with_colons("input # [\n [ {} ]"), "input # [\n :[ {} ]");
        for as_it_is in [
            "a: 'x [' b: \"\\\" [\"",
            "# input [",
            "a: ['x', \"y\"]",
            "a: 'b' [",
        ] {
            assert_eq!(with_colons(as_it_is), as_it_is);
        }
    }

    #[test]
    fn the_library_reads_the_rest_of_the_format() {
        let read = parse(
            "name: 'a' \"b\"; platform: \"\\x6fn\", input < name: 'x', dims: [ 1, -1 ]; dims: 0x10 >\n\
             optimization: { eager_batching: t } # end",
        );
        let config = read.expect("it is right");
        assert_eq!((&config.name[..], &config.platform[..]), ("ab", "on"));
        assert_eq!(config.input[0].dims, [1, -1, 16]);
    }

    #[test]
    fn brackets_in_each_other_without_end_are_refused() {
        for open in [
            "input {",
            "input <",
            "input: [",
            "[",
            "{",
            "[a/inference.ModelConfig] {",
            "[a/inference.ModelConfig]: <",
            "[a.b] {",
            "name: '}' input {",
            "name: \"\\\"}\" input {",
            "# }\n input {",
        ] {
            let text = open.repeat(100_000);
            let told = parse(&text).expect_err("it is too much");
            assert!(told.starts_with("line "), "{told}");
            let told = parse(&text[..30_000]).expect_err("it is too deep");
            assert!(told.ends_with("more than 64 brackets are open"), "{told}");
        }
        let told = parse(&format!("#\n'{}'\n{}", "{".repeat(99), "<".repeat(65)));
        assert!(told.is_err_and(|told| told.starts_with("line 3: more than")));
        for open in [
            r#"{"input":["#,
            r#"{"input":"#,
            "[",
            r#"{"a":"#,
            r#"{"parameters":{"a":"#,
        ] {
            parse_json(&open.repeat(100_000)).expect_err("it is too deep");
        }
    }

    #[test]
    fn a_file_has_an_end() {
        let longest = format!("#{}", " ".repeat(LONGEST - 1));
        assert!(parse(&longest).is_ok());
        let told = parse(&format!("{longest} ")).expect_err("it is too long");
        assert!(
            told.contains("1048577 bytes, expected at most 1048576"),
            "{told}"
        );
        parse_json(&format!("{}{{}}", " ".repeat(LONGEST))).expect_err("it is too long");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(
            text in "\\PC*",
            near in "(name|input|dims|dynamic_batching|parameters|[\\[\\]{}<>:,;'\"#\\\\\n 0-9.a-zé-]){0,40}",
        ) {
            for text in [text, near] {
                if let Err(reason) = parse(&text) {
                    prop_assert!(reason.starts_with("line "), "{}", reason);
                }
            }
        }
    }
}
