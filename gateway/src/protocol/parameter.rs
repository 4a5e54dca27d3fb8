//! Finds the value of one parameter at the head of an inference request, without decoding the rest.
//!
//! Parameters are field 4 of the message, after the names and before the tensors (`peek` says how far one may rely on
//! that order). Of a part of a message the search ends where a later field begins; of a parameter given twice the last
//! one counts, as for a decoder. A value is given as it stands in the message: for telling values apart, not for
//! reading them.

use super::wire::{Reader, Stop};

const PARAMETERS: u32 = 4;
/// In an entry of the map.
const NAME: u32 = 1;
const VALUE: u32 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sought<'a> {
    Found(&'a [u8]),
    /// The message has no such parameter, or is malformed.
    Absent,
    /// Everything so far is in order, but it is not enough to tell.
    NeedMore,
}

/// `head` is the message from its first byte; `complete` says that it is all of it.
pub fn find<'a>(head: &'a [u8], name: &str, complete: bool) -> Sought<'a> {
    match search(head, name, complete) {
        Ok(Some(Some(value))) => Sought::Found(value),
        Ok(Some(None)) => Sought::Absent,
        Ok(None) => Sought::NeedMore,
        Err(Stop::Truncated) if !complete => Sought::NeedMore,
        Err(Stop::Truncated | Stop::Malformed) => Sought::Absent,
    }
}

/// None: the bytes end between two fields, and more are to come.
fn search<'a>(
    head: &'a [u8],
    name: &str,
    complete: bool,
) -> Result<Option<Option<&'a [u8]>>, Stop> {
    let mut reader = Reader::new(head);
    let mut found = None;
    while !reader.is_empty() {
        let (number, wire_type) = reader.key()?;
        if number == PARAMETERS {
            let entry = reader.value(wire_type)?;
            // An entry that is cut short within a message that goes on is malformed, whatever comes after it.
            found = value_of(entry, name)
                .map_err(|_| Stop::Malformed)?
                .or(found);
        } else if !complete && number > PARAMETERS {
            return Ok(Some(found));
        } else {
            reader.skip(wire_type)?;
        }
    }
    Ok(complete.then_some(found))
}

/// The value of an entry of this name; None: it has another name, or no value.
fn value_of<'a>(entry: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, Stop> {
    let mut reader = Reader::new(entry);
    let (mut own, mut choice) = (&b""[..], None);
    while !reader.is_empty() {
        let (number, wire_type) = reader.key()?;
        match number {
            NAME => own = reader.value(wire_type)?,
            VALUE => choice = Some(reader.value(wire_type)?),
            _ => reader.skip(wire_type)?,
        }
    }
    let Some(choice) = choice.filter(|_| own == name.as_bytes()) else {
        return Ok(None);
    };
    let mut reader = Reader::new(choice);
    let mut value = None;
    while !reader.is_empty() {
        let (_, wire_type) = reader.key()?;
        value = Some(reader.value(wire_type)?);
    }
    Ok(value.filter(|value| !value.is_empty()))
}

#[cfg(test)]
mod tests {
    use forebay_proto::inference::infer_parameter::ParameterChoice;
    use forebay_proto::inference::{InferParameter, ModelInferRequest};
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    fn request(parameters: &[(&str, ParameterChoice)]) -> Vec<u8> {
        let parameter = |(name, choice): &(&str, ParameterChoice)| {
            let parameter_choice = Some(choice.clone());
            ((*name).to_owned(), InferParameter { parameter_choice })
        };
        ModelInferRequest {
            model_name: "m".into(),
            id: "7".into(),
            parameters: parameters.iter().map(parameter).collect(),
            inputs: vec![Default::default()],
            raw_input_contents: vec![vec![0; 1024].into()],
            ..Default::default()
        }
        .encode_to_vec()
    }

    #[test]
    fn values_of_every_kind_are_found() {
        let text = |text: &str| ParameterChoice::StringParam(text.to_owned());
        let message = request(&[
            ("user", text("ada")),
            ("sequence_id", ParameterChoice::Int64Param(300)),
            ("unsigned", ParameterChoice::Uint64Param(300)),
            ("ratio", ParameterChoice::DoubleParam(0.5)),
            ("end", ParameterChoice::BoolParam(true)),
            ("empty", text("")),
        ]);
        for (name, value) in [
            ("user", Sought::Found(&b"ada"[..])),
            ("sequence_id", Sought::Found(&[0xac, 0x02])),
            ("unsigned", Sought::Found(&[0xac, 0x02])),
            ("ratio", Sought::Found(&[0, 0, 0, 0, 0, 0, 0xe0, 0x3f])),
            ("end", Sought::Found(&[1])),
            ("empty", Sought::Absent),
            ("absent", Sought::Absent),
        ] {
            assert_eq!(find(&message, name, true), value, "{name}");
        }
    }

    #[test]
    fn a_head_that_reaches_the_tensors_is_enough() {
        let message = request(&[("a", ParameterChoice::StringParam("x".into()))]);
        let tensors = message.iter().rposition(|byte| *byte == b'x').unwrap() + 1;
        for end in 0..message.len() {
            let expected = if end <= tensors {
                Sought::NeedMore
            } else {
                Sought::Found(&b"x"[..])
            };
            assert_eq!(find(&message[..end], "a", false), expected, "{end} bytes");
        }
    }

    #[test]
    fn of_a_parameter_given_twice_the_last_one_counts() {
        let first = request(&[("a", ParameterChoice::StringParam("x".into()))]);
        let second = request(&[("a", ParameterChoice::StringParam("y".into()))]);
        let both = [first, second].concat();
        assert_eq!(find(&both, "a", true), Sought::Found(b"y"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..64), complete in any::<bool>()
        ) {
            find(&bytes, "a", complete);
            find(&[&[4 << 3 | 2, 40][..], &bytes].concat(), "a", complete);
        }
    }
}
