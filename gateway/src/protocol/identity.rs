//! What an inference request asks, as a key: equal keys mean that one answer serves both.
//!
//! The message is not decoded. Its top-level fields go into the key as they stand, tensors and everything that this
//! gateway does not know included, so that a request with anything else in it is another request. Left out is what
//! changes no answer: the id, and the parameters `timeout` and `priority`. The other parameters are a map, which
//! writers put down in any order, so they count in the order of their names. Beyond that, requests that mean the same
//! but are written differently (fields in another order, typed contents in place of raw ones) have different keys:
//! they miss, which costs a run and no more. REST calls become messages with raw contents, as gRPC clients write them.
//!
//! A request without a key: one that is part of a sequence, whose answer depends on what came before; one with a tensor
//! in shared memory, whose content the message does not have; one that is malformed.

use forebay_cache::{Digest, Key};
use smallvec::SmallVec;

use super::wire::{Reader, Stop};

// Fields of ModelInferRequest.
const MODEL_NAME: u32 = 1;
const ID: u32 = 3;
const PARAMETERS: u32 = 4;
const INPUTS: u32 = 5;
const OUTPUTS: u32 = 6;
const LAST: u32 = 7;

/// Where an input, and a requested output, have their parameters.
const INPUT_PARAMETERS: u32 = 4;
const OUTPUT_PARAMETERS: u32 = 2;

const SHARED_MEMORY: &[u8] = b"shared_memory_region";
const NOT_ASKED: [&[u8]; 2] = [b"priority", b"timeout"];
const SEQUENCE: [&[u8]; 3] = [b"sequence_id", b"sequence_start", b"sequence_end"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity<'a> {
    pub key: Key,
    pub model: &'a str,
    /// Of this request alone: its answer has to bear it.
    pub id: &'a str,
}

/// Why a request has no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unkeyed {
    Malformed,
    Sequence,
    SharedMemory,
}

impl From<Stop> for Unkeyed {
    fn from(_: Stop) -> Self {
        Self::Malformed
    }
}

/// `message`: a ModelInferRequest without its frame. `digest` has what tells requests apart besides.
pub fn of(message: &[u8], mut digest: Digest) -> Result<Identity<'_>, Unkeyed> {
    let mut reader = Reader::new(message);
    let (mut model, mut id) = ("", "");
    let mut parameters: SmallVec<[(&[u8], &[u8]); 4]> = SmallVec::new();
    let mut written = 0;
    while let Some(field) = reader.field()? {
        let content = match (field.number, field.content) {
            (1..=LAST, None) => return Err(Unkeyed::Malformed),
            (_, content) => content.unwrap_or_default(),
        };
        match field.number {
            ID => {
                id = text(content)?;
                continue;
            }
            PARAMETERS => {
                let name = entry_name(content)?;
                if SEQUENCE.contains(&name) {
                    return Err(Unkeyed::Sequence);
                }
                if !NOT_ASKED.contains(&name) {
                    parameters.push((name, content));
                }
                continue;
            }
            MODEL_NAME => model = text(content)?,
            INPUTS => refuse_shared_memory(content, INPUT_PARAMETERS)?,
            OUTPUTS => refuse_shared_memory(content, OUTPUT_PARAMETERS)?,
            _ => {}
        }
        digest.bytes(field.whole);
        written += field.whole.len();
    }
    // Of a name that comes twice the last one counts, so the order within a name stays.
    parameters.sort_by_key(|(name, _)| *name);
    for (_, entry) in &parameters {
        digest.field(entry);
    }
    // At the end, where it is found without knowing anything else: it says where the fields ended.
    digest.number(written);
    Ok(Identity {
        key: digest.key(),
        model,
        id,
    })
}

fn text(content: &[u8]) -> Result<&str, Unkeyed> {
    std::str::from_utf8(content).map_err(|_| Unkeyed::Malformed)
}

/// The name in an entry of a map, whose fields are 1 (the name) and 2 (the value).
fn entry_name(entry: &[u8]) -> Result<&[u8], Unkeyed> {
    let mut reader = Reader::new(entry);
    let mut name: &[u8] = b"";
    while let Some(field) = reader.field()? {
        if field.number == 1 {
            name = field.content.ok_or(Unkeyed::Malformed)?;
        }
    }
    Ok(name)
}

fn refuse_shared_memory(tensor: &[u8], parameters: u32) -> Result<(), Unkeyed> {
    let mut reader = Reader::new(tensor);
    while let Some(field) = reader.field()? {
        if field.number == parameters
            && entry_name(field.content.ok_or(Unkeyed::Malformed)?)? == SHARED_MEMORY
        {
            return Err(Unkeyed::SharedMemory);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use forebay_proto::inference::infer_parameter::ParameterChoice;
    use forebay_proto::inference::model_infer_request::{
        InferInputTensor, InferRequestedOutputTensor,
    };
    use forebay_proto::inference::{InferParameter, ModelInferRequest};
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    fn parameter(value: &str) -> InferParameter {
        InferParameter {
            parameter_choice: Some(ParameterChoice::StringParam(value.to_owned())),
        }
    }

    fn named(name: &str) -> BTreeMap<String, InferParameter> {
        [(name.to_owned(), parameter("v"))].into()
    }

    fn request() -> ModelInferRequest {
        ModelInferRequest {
            model_name: "m".into(),
            id: "7".into(),
            inputs: vec![InferInputTensor {
                name: "x".into(),
                datatype: "UINT8".into(),
                shape: vec![1, 4],
                ..Default::default()
            }],
            raw_input_contents: vec![b"abcd"[..].into()],
            ..Default::default()
        }
    }

    fn key(message: &[u8]) -> Result<Key, Unkeyed> {
        of(message, Digest::new()).map(|identity| identity.key)
    }

    fn key_of(request: &ModelInferRequest) -> Result<Key, Unkeyed> {
        key(&request.encode_to_vec())
    }

    #[test]
    fn whatever_changes_the_answer_changes_the_key() {
        let changed = |change: fn(&mut ModelInferRequest)| {
            let mut request = request();
            change(&mut request);
            key_of(&request).unwrap()
        };
        let keys = [
            changed(|_| {}),
            changed(|r| r.model_name = "n".into()),
            changed(|r| r.model_version = "1".into()),
            changed(|r| r.inputs[0].name = "y".into()),
            changed(|r| r.inputs[0].datatype = "INT8".into()),
            changed(|r| r.inputs[0].shape = vec![4, 1]),
            changed(|r| r.inputs[0].parameters = named("p")),
            changed(|r| r.raw_input_contents[0] = b"abce"[..].into()),
            changed(|r| r.raw_input_contents = vec![b"ab"[..].into(), b"cd"[..].into()]),
            changed(|r| r.parameters = named("p")),
            changed(|r| r.parameters = named("q")),
            changed(|r| r.outputs.push(InferRequestedOutputTensor::default())),
            changed(|r| {
                r.outputs.push(InferRequestedOutputTensor {
                    name: "y".into(),
                    parameters: named("classification"),
                })
            }),
        ];
        for (number, one) in keys.iter().enumerate() {
            for (other_number, other) in keys.iter().enumerate() {
                assert_eq!(
                    one == other,
                    number == other_number,
                    "{number} {other_number}"
                );
            }
        }
    }

    #[test]
    fn what_changes_no_answer_does_not() {
        let mut other = request();
        other.id = "another".into();
        other.parameters = [
            ("timeout".to_owned(), parameter("5")),
            ("priority".to_owned(), parameter("1")),
        ]
        .into();
        assert_eq!(key_of(&request()), key_of(&other));
        let message = other.encode_to_vec();
        let identity = of(&message, Digest::new()).unwrap();
        assert_eq!((identity.id, identity.model), ("another", "m"));
    }

    #[test]
    fn what_is_known_from_elsewhere_counts() {
        let message = request().encode_to_vec();
        let mut digest = Digest::new();
        digest.field(b"Bearer a");
        let other = of(&message, digest).unwrap().key;
        assert_ne!(key(&message), Ok(other));
    }

    #[test]
    fn parameters_count_in_any_order_and_unknown_fields_count() {
        let entry = |name: &str, value: &str| {
            let mut request = ModelInferRequest::default();
            request.parameters.insert(name.into(), parameter(value));
            request.encode_to_vec()
        };
        let plain = request().encode_to_vec();
        let with = |entries: &[Vec<u8>]| key(&[plain.clone(), entries.concat()].concat()).unwrap();
        let (a, b) = (entry("a", "1"), entry("b", "2"));
        assert_eq!(with(&[a.clone(), b.clone()]), with(&[b.clone(), a.clone()]));
        assert_ne!(
            with(&[a.clone(), b.clone()]),
            with(std::slice::from_ref(&a))
        );
        // Of the same name the last one counts.
        let again = entry("a", "3");
        assert_ne!(with(&[a.clone(), again.clone()]), with(&[again, a]));
        let unknown = vec![14 << 3, 1];
        assert_ne!(with(&[unknown]), with(&[]));
        assert_ne!(with(&[vec![14 << 3, 1]]), with(&[vec![14 << 3, 2]]));
    }

    #[test]
    fn parameters_are_not_mistaken_for_fields() {
        // The fields of one are the bytes of the other's parameters, lengths included.
        let value = parameter("v").encode_to_vec();
        let entry = [
            &[1 << 3 | 2, 1, b'p', 2 << 3 | 2, value.len() as u8][..],
            &value,
        ]
        .concat();
        let written = [&(entry.len() as u64).to_le_bytes()[..], &entry].concat();
        let with_parameter = [&[4 << 3 | 2, entry.len() as u8][..], &entry].concat();
        assert_ne!(key(&with_parameter), key(&written));
    }

    #[test]
    fn sequences_and_shared_memory_have_no_key() {
        for name in ["sequence_id", "sequence_start", "sequence_end"] {
            let mut request = request();
            request.parameters = named(name);
            assert_eq!(key_of(&request), Err(Unkeyed::Sequence), "{name}");
        }
        let mut input = request();
        input.inputs[0].parameters = named("shared_memory_region");
        let mut output = request();
        output.outputs.push(InferRequestedOutputTensor {
            name: "y".into(),
            parameters: named("shared_memory_region"),
        });
        for request in [input, output] {
            assert_eq!(key_of(&request), Err(Unkeyed::SharedMemory));
        }
    }

    #[test]
    fn what_no_worker_takes_has_no_key() {
        for message in [
            &[3 << 3, 1][..],
            &[1 << 3 | 2, 1, 0xff],
            &[3 << 3 | 2, 1, 0xff],
            &[5 << 3 | 2, 2, 4 << 3, 1],
            &[4 << 3 | 2, 2, 1 << 3, 1],
            &[7 << 3 | 2, 9],
            &[0, 0],
        ] {
            assert_eq!(key(message), Err(Unkeyed::Malformed), "{message:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = key(&bytes);
        }

        /// Equal keys: the decoder finds the same request, but for its id.
        #[test]
        fn equal_keys_are_equal_requests(
            one in prop::collection::vec((1_u8..9, 0_u8..3), 0..6),
            other in prop::collection::vec((1_u8..9, 0_u8..3), 0..6),
        ) {
            let message = |fields: &[(u8, u8)]| -> Vec<u8> {
                let field = |(number, value): &(u8, u8)| match number {
                    4 => vec![4 << 3 | 2, 3, 1 << 3 | 2, 1, b'a' + value],
                    5 | 6 => vec![number << 3 | 2, 3, 1 << 3 | 2, 1, b'a' + value],
                    _ => vec![number << 3 | 2, 1, b'a' + value],
                };
                fields.iter().flat_map(field).collect()
            };
            let (one, other) = (message(&one), message(&other));
            if key(&one).unwrap() == key(&other).unwrap() {
                let decoded = |message: &[u8]| {
                    let request = ModelInferRequest::decode(message).unwrap();
                    ModelInferRequest { id: String::new(), ..request }
                };
                prop_assert_eq!(decoded(&one), decoded(&other));
            }
        }
    }
}
