//! A stream split anywhere: the same messages, whatever the pieces. The first octet says how long they are.
#![no_main]

#[path = "../../sip/tests/wire/exercise.rs"]
#[allow(dead_code, reason = "shared with the other targets")]
mod exercise;

use libfuzzer_sys::fuzz_target;
use sip_proto::framing::Frame;

fn messages(input: &[u8], piece: usize) -> Vec<Result<Vec<u8>, (u16, bool)>> {
    let frames = exercise::frames(input, piece).into_iter();
    frames
        .filter_map(|frame| match frame {
            Ok(Frame::Message(message)) => {
                exercise::every_line_is_accounted_for(&message);
                Some(Ok(message.bytes().to_vec()))
            }
            // A ping in halves shows a pong first.
            Ok(Frame::KeepAlive(_)) => None,
            Err(refusal) => {
                exercise::refused(&refusal);
                Some(Err((refusal.status, refusal.close)))
            }
        })
        .collect()
}

fuzz_target!(|data: &[u8]| {
    let Some((&piece, stream)) = data.split_first() else { return };
    let whole = messages(stream, stream.len());
    assert_eq!(messages(stream, usize::from(piece)), whole);
    // Nothing follows a fault that closes.
    let closing = whole.iter().position(|frame| matches!(frame, Err((_, true))));
    assert!(closing.is_none_or(|at| at + 1 == whole.len()));
});
