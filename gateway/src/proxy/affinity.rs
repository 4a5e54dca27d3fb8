//! What a stream's first message says about the key of the whole stream.

use forebay_proto::framing;

use crate::protocol::method::Method;
use crate::protocol::parameter::{self, Sought};
use crate::traffic::affinity::MessageHead;

/// Whether the beginning of a stream reaches beyond all that a key can come from.
pub fn is_enough(seen: &[u8]) -> bool {
    first_message(seen).is_some_and(|(message, complete)| {
        // Whatever its name: it is looked for up to where none can follow.
        parameter::find(message, "", complete) != Sought::NeedMore
    })
}

/// None: nothing was read, or the message is compressed.
pub fn message(seen: &[u8], method: Method) -> Option<MessageHead<'_>> {
    let (bytes, complete) = first_message(seen).filter(|_| seen[0] == 0)?;
    Some(MessageHead {
        bytes,
        complete,
        method,
    })
}

/// As far as it is here, and whether that is all of it.
fn first_message(seen: &[u8]) -> Option<(&[u8], bool)> {
    let (&[_, ref length @ ..], rest) = seen.split_first_chunk::<{ framing::HEADER_LENGTH }>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    Some(match rest.get(..length) {
        Some(message) => (message, true),
        None => (rest, false),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_enough_when_no_parameter_can_follow() {
        // The name "m", then a tensor of which the rest is not here.
        let message = [10, 1, b'm', 42, 100, 0, 0];
        let framed = |length: u8| [&[0, 0, 0, 0, length][..], &message].concat();
        for end in 0..=8 {
            assert!(!is_enough(&framed(105)[..end]), "{end} bytes");
        }
        assert!(is_enough(&framed(105)));
        let seen = framed(105);
        let head = super::message(&seen, Method::StreamInfer).unwrap();
        assert_eq!((head.bytes, head.complete), (&message[..], false));
        let seen = framed(3);
        assert!(is_enough(&seen[..8]), "the message is all here");
        let head = super::message(&seen, Method::StreamInfer).unwrap();
        assert_eq!((head.bytes, head.complete), (&message[..3], true));
    }

    #[test]
    fn compressed_messages_say_nothing() {
        let seen = [1, 0, 0, 0, 2, 0x1f, 0x8b];
        assert!(is_enough(&seen));
        assert!(super::message(&seen, Method::StreamInfer).is_none());
        assert!(super::message(&[], Method::StreamInfer).is_none());
    }
}
