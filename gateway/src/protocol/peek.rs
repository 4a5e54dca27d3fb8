//! Finds the model's name and version at the head of a protobuf message, without decoding the rest.
//!
//! An inference request is some bytes of names followed by megabytes of tensors, and routing needs only the names.
//! Fields are stepped over by their length, so nothing is copied and no tensor is touched. Writers of protobuf put
//! fields in the order of their numbers, but need not, and of a field that comes twice the last one counts:
//!
//! - of a complete message every top-level field is visited, and the answer is what a full decoder would find;
//! - of a part, the search ends when both fields have been seen or a field of a higher number begins. A sender that
//!   deviates from the order can then make this differ from what the server will decode. Whatever must hold against
//!   such a sender has to look at complete messages.
//!
//! `Invalid` is what no decoder accepts: broken varints, field number 0, a name that is not a string, lengths beyond
//! 2 GiB or beyond the message, and also groups, which the protocols here never had. Nested messages are not
//! looked into. How long to wait for more bytes, and for how many, is the caller's to bound.

use super::wire::{Reader, Stop};

/// Field numbers of the model's name and version in a request message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelFields {
    pub name: u32,
    /// None: the message has no version.
    pub version: Option<u32>,
}

impl ModelFields {
    /// ModelInfer and the calls about a model's state.
    pub const NAME_AND_VERSION: Self = Self {
        name: 1,
        version: Some(2),
    };
    /// Loading and unloading, after the repository's name; trace settings, after the settings.
    pub const NAME_SECOND: Self = Self {
        name: 2,
        version: None,
    };

    fn highest(self) -> u32 {
        self.version
            .map_or(self.name, |version| version.max(self.name))
    }
}

/// What a message says about its model. An empty string is as good as none, as in proto3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ModelRef<'a> {
    pub name: Option<&'a str>,
    pub version: Option<&'a str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peek<'a> {
    Found(ModelRef<'a>),
    /// Everything so far is in order, but it is not enough to tell.
    NeedMore,
    Invalid,
    /// The message is compressed (only from `peek_framed`): decompress it first, then use `peek_model`.
    Compressed,
}

/// `message_head` is the message from its first byte; `complete` says that it is all of it.
pub fn peek_model(message_head: &[u8], fields: ModelFields, complete: bool) -> Peek<'_> {
    match search(message_head, fields, complete) {
        Ok(Some(model)) => Peek::Found(model),
        Ok(None) => Peek::NeedMore,
        Err(Stop::Truncated) if !complete => Peek::NeedMore,
        Err(Stop::Truncated | Stop::Malformed) => Peek::Invalid,
    }
}

/// The same over gRPC framing (a flag byte, four bytes of big-endian length, the message): looks at the first message
/// in `buffer`. `end_of_stream` says that nothing follows; a stream without any message names no model.
pub fn peek_framed(buffer: &[u8], fields: ModelFields, end_of_stream: bool) -> Peek<'_> {
    let Some((&[flag, ref length @ ..], message)) = buffer.split_first_chunk::<5>() else {
        return match (buffer, end_of_stream) {
            (_, false) => Peek::NeedMore,
            ([], true) => Peek::Found(ModelRef::default()),
            (_, true) => Peek::Invalid,
        };
    };
    match flag {
        0 => {}
        1 => return Peek::Compressed,
        _ => return Peek::Invalid,
    }
    let complete = usize::try_from(u32::from_be_bytes(*length))
        .ok()
        .and_then(|length| message.get(..length));
    match complete {
        Some(message) => peek_model(message, fields, true),
        None if end_of_stream => Peek::Invalid,
        None => peek_model(message, fields, false),
    }
}

/// None: the bytes end between two fields, and more are to come.
fn search(
    message: &[u8],
    fields: ModelFields,
    complete: bool,
) -> Result<Option<ModelRef<'_>>, Stop> {
    let mut reader = Reader::new(message);
    let (mut name, mut version) = (None, None);
    while !reader.is_empty() {
        let (number, wire_type) = reader.key()?;
        if number == fields.name {
            name = Some(reader.string(wire_type)?);
        } else if Some(number) == fields.version {
            version = Some(reader.string(wire_type)?);
        } else if !complete && number > fields.highest() {
            return Ok(Some(model(name, version)));
        } else {
            reader.skip(wire_type)?;
        }
        if !complete && name.is_some() && (version.is_some() || fields.version.is_none()) {
            return Ok(Some(model(name, version)));
        }
    }
    Ok(complete.then(|| model(name, version)))
}

fn model<'a>(name: Option<&'a str>, version: Option<&'a str>) -> ModelRef<'a> {
    let given = |text: Option<&'a str>| text.filter(|text| !text.is_empty());
    ModelRef {
        name: given(name),
        version: given(version),
    }
}

#[cfg(test)]
mod tests {
    use forebay_proto::inference::model_infer_request::InferInputTensor;
    use forebay_proto::inference::{ModelInferRequest, RepositoryModelLoadRequest};
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    const FIELDS: ModelFields = ModelFields::NAME_AND_VERSION;

    fn found<'a>(name: Option<&'a str>, version: Option<&'a str>) -> Peek<'a> {
        Peek::Found(ModelRef { name, version })
    }

    fn request(name: &str, version: &str) -> Vec<u8> {
        let input = InferInputTensor {
            name: "input".into(),
            datatype: "FP32".into(),
            shape: vec![1, 256],
            ..Default::default()
        };
        ModelInferRequest {
            model_name: name.into(),
            model_version: version.into(),
            id: "7".into(),
            inputs: vec![input],
            raw_input_contents: vec![vec![0; 1024].into()],
            ..Default::default()
        }
        .encode_to_vec()
    }

    fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap();
        [&[flag][..], &length.to_be_bytes(), message].concat()
    }

    /// A length-delimited field of a number below 16.
    fn field(number: u8, value: &[u8]) -> Vec<u8> {
        let length = u8::try_from(value.len()).unwrap();
        [&[number << 3 | 2, length][..], value].concat()
    }

    #[test]
    fn every_beginning_of_a_request_says_no_more_than_the_whole() {
        let message = request("resnet", "3");
        assert_eq!(
            peek_model(&message, FIELDS, true),
            found(Some("resnet"), Some("3"))
        );
        let names_end = 2 + "resnet".len() + 2 + "3".len();
        for end in 0..message.len() {
            let expected = if end < names_end {
                Peek::NeedMore
            } else {
                found(Some("resnet"), Some("3"))
            };
            assert_eq!(
                peek_model(&message[..end], FIELDS, false),
                expected,
                "{end} bytes"
            );
        }
    }

    #[test]
    fn without_a_version_the_next_field_ends_the_search() {
        let message = request("m", "");
        let next_field = 3;
        assert_eq!(
            peek_model(&message[..next_field], FIELDS, false),
            Peek::NeedMore
        );
        assert_eq!(
            peek_model(&message[..=next_field], FIELDS, false),
            found(Some("m"), None)
        );
        assert_eq!(peek_model(&message, FIELDS, true), found(Some("m"), None));
    }

    #[test]
    fn a_message_without_names_names_none() {
        assert_eq!(peek_model(&[], FIELDS, true), found(None, None));
        assert_eq!(peek_model(&[], FIELDS, false), Peek::NeedMore);
        assert_eq!(
            peek_model(&field(3, b"id"), FIELDS, false),
            found(None, None)
        );
        let empty = [field(1, b""), field(2, b"")].concat();
        assert_eq!(peek_model(&empty, FIELDS, false), found(None, None));
    }

    #[test]
    fn the_name_alone_is_enough_where_there_is_no_version() {
        let load = RepositoryModelLoadRequest {
            repository_name: "repository".into(),
            model_name: "m".into(),
            ..Default::default()
        };
        let message = load.encode_to_vec();
        assert_eq!(
            peek_model(&message, ModelFields::NAME_SECOND, true),
            found(Some("m"), None)
        );
        assert_eq!(
            peek_model(&message, ModelFields::NAME_SECOND, false),
            found(Some("m"), None)
        );
        let half = &message[..message.len() - 1];
        assert_eq!(
            peek_model(half, ModelFields::NAME_SECOND, false),
            Peek::NeedMore
        );
    }

    #[test]
    fn complete_messages_may_be_in_any_order_and_the_last_field_counts() {
        let message = [
            field(7, b"tensor"),
            field(2, b"1"),
            field(1, b"a"),
            field(3, b"id"),
            field(1, b"b"),
        ]
        .concat();
        assert_eq!(
            peek_model(&message, FIELDS, true),
            found(Some("b"), Some("1"))
        );
        assert_eq!(
            peek_model(&message, FIELDS, false),
            found(None, None),
            "only the head is known"
        );
        let swapped = [field(2, b"1"), field(1, b"a")].concat();
        assert_eq!(
            peek_model(&swapped, FIELDS, false),
            found(Some("a"), Some("1"))
        );
    }

    #[test]
    fn broken_messages_are_invalid_even_in_part() {
        let cases: [(&str, Vec<u8>); 10] = [
            ("an endless varint", vec![0xff; 11]),
            (
                "a varint above 64 bits",
                [vec![8 << 3; 1], vec![0x80; 9], vec![2]].concat(),
            ),
            ("field number 0", vec![0x02, 0]),
            ("a key above 32 bits", vec![0x80, 0x80, 0x80, 0x80, 0x10]),
            ("a start of group", vec![1 << 3 | 3]),
            ("an end of group", vec![5 << 3 | 4, 0]),
            ("an unknown wire type", vec![1 << 3 | 6]),
            ("a name that is a number", vec![1 << 3, 1]),
            ("a name that is not UTF-8", field(1, b"\xff\xfe")),
            (
                "a length above 2 GiB",
                vec![1 << 3 | 2, 0x80, 0x80, 0x80, 0x80, 0x08],
            ),
        ];
        let fields = ModelFields {
            name: 1,
            version: Some(9),
        };
        for (what, message) in cases {
            assert_eq!(peek_model(&message, fields, false), Peek::Invalid, "{what}");
            assert_eq!(peek_model(&message, fields, true), Peek::Invalid, "{what}");
        }
    }

    #[test]
    fn claims_beyond_the_bytes_wait_or_are_invalid() {
        let gigabyte = [
            vec![1 << 3 | 2],
            vec![0x80, 0x80, 0x80, 0x80, 0x04],
            vec![b'm'; 10],
        ]
        .concat();
        assert_eq!(peek_model(&gigabyte, FIELDS, false), Peek::NeedMore);
        assert_eq!(peek_model(&gigabyte, FIELDS, true), Peek::Invalid);
    }

    #[test]
    fn frames_are_peeked_as_they_arrive() {
        let message = request("m", "1");
        let buffer = framed(0, &message);
        let names_end = 5 + 6;
        for end in 0..=buffer.len() {
            let expected = if end < names_end {
                Peek::NeedMore
            } else {
                found(Some("m"), Some("1"))
            };
            assert_eq!(
                peek_framed(&buffer[..end], FIELDS, false),
                expected,
                "{end} bytes"
            );
        }
        assert_eq!(
            peek_framed(&buffer, FIELDS, true),
            found(Some("m"), Some("1"))
        );
        assert_eq!(
            peek_framed(&buffer[..buffer.len() - 1], FIELDS, true),
            Peek::Invalid
        );
        let two = [buffer, framed(0, &request("other", "2"))].concat();
        assert_eq!(
            peek_framed(&two, FIELDS, true),
            found(Some("m"), Some("1")),
            "the first one counts"
        );
    }

    #[test]
    fn frames_say_when_there_is_nothing_to_read() {
        assert_eq!(
            peek_framed(&framed(0, &[]), FIELDS, false),
            found(None, None)
        );
        assert_eq!(peek_framed(&[], FIELDS, true), found(None, None));
        assert_eq!(peek_framed(&[], FIELDS, false), Peek::NeedMore);
        assert_eq!(peek_framed(&[0, 0], FIELDS, true), Peek::Invalid);
        assert_eq!(
            peek_framed(&framed(1, b"\x1f\x8b"), FIELDS, false),
            Peek::Compressed
        );
        assert_eq!(peek_framed(&framed(2, b""), FIELDS, false), Peek::Invalid);
    }

    fn known(text: &str) -> Option<&str> {
        Some(text).filter(|text| !text.is_empty())
    }

    /// Top-level fields of a request in any order and number, known and unknown ones, without groups.
    fn fields() -> impl Strategy<Value = Vec<u8>> {
        let string = prop_oneof![1_u8..4, Just(11_u8)];
        let one = prop_oneof![
            (string, "\\PC{0,5}").prop_map(|(number, text)| field(number, text.as_bytes())),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| field(7, &bytes)),
            any::<u64>().prop_map(|bits| [&[12 << 3 | 1][..], &bits.to_le_bytes()].concat()),
            any::<u32>().prop_map(|bits| [&[13 << 3 | 5][..], &bits.to_le_bytes()].concat()),
            (0_u8..0x80).prop_map(|low| vec![14 << 3, 0xff, low]),
        ];
        prop::collection::vec(one, 0..12).prop_map(|fields| fields.concat())
    }

    proptest! {
        #[test]
        fn complete_messages_agree_with_the_decoder(message in fields()) {
            let decoded = ModelInferRequest::decode(&message[..]).unwrap();
            let expected = found(known(&decoded.model_name), known(&decoded.model_version));
            prop_assert_eq!(peek_model(&message, FIELDS, true), expected);
        }

        #[test]
        fn heads_agree_with_the_decoder_when_fields_are_in_order(
            name in "\\PC{0,12}", version in "[0-9]{0,3}", cut in any::<prop::sample::Index>()
        ) {
            let message = request(&name, &version);
            let whole = peek_model(&message, FIELDS, true);
            prop_assert_eq!(whole, found(known(&name), known(&version)));
            let head = peek_model(&message[..cut.index(message.len())], FIELDS, false);
            prop_assert!(head == whole || head == Peek::NeedMore);
        }

        /// Damaged messages: no panic, and never another answer than the decoder's.
        #[test]
        fn damage_is_never_misread(
            mut message in fields(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)
        ) {
            for (place, byte) in damage {
                if !message.is_empty() {
                    let place = place.index(message.len());
                    message[place] = byte;
                }
            }
            let peeked = peek_model(&message, FIELDS, true);
            prop_assert_ne!(peeked, Peek::NeedMore);
            if let (Peek::Found(model), Ok(decoded)) = (peeked, ModelInferRequest::decode(&message[..])) {
                prop_assert_eq!(model.name, known(&decoded.model_name));
                prop_assert_eq!(model.version, known(&decoded.model_version));
            }
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..64), end in any::<bool>(),
            name in 1_u32..20, version in prop::option::of(1_u32..20)
        ) {
            let fields = ModelFields { name, version };
            peek_model(&bytes, fields, end);
            peek_framed(&bytes, fields, end);
            peek_framed(&[&[0, 0, 0, 0, 40][..], &bytes].concat(), fields, end);
        }
    }
}
