//! Each figure of RFC 3261 §17 walked through by the clock, with the changes of RFC 6026 and RFC 4320.

use bytes::Bytes;
use sip_proto::time::Mono;
use sip_proto::timer::TimerValues;
use sip_proto::transaction::{
    Action, Cause, ClientInvite, ClientNonInvite, Reliability, ServerInvite, ServerNonInvite, ToUser,
};

use Action::{Send, Terminated};
use Reliability::{Reliable, Unreliable};

const V: TimerValues = TimerValues { t1: 500, t2: 4_000, t4: 5_000 };

fn ms(millis: u64) -> Mono {
    Mono(millis * 1000)
}

fn b(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn user(event: ToUser) -> Action {
    Action::ToUser(event)
}

/// Runs a machine to its end and notes at which millisecond it did what.
macro_rules! run {
    ($machine:expr) => {{
        let mut log = Vec::new();
        while let Some(at) = $machine.poll_timeout() {
            assert!(at < ms(100_000), "no end: {log:?}");
            let mut out = Vec::new();
            $machine.handle_timeout(at, &mut out);
            log.extend(out.into_iter().map(|action| (at.0 / 1000, action)));
        }
        log
    }};
}

fn sends(log: &[(u64, Action)]) -> Vec<u64> {
    log.iter().filter(|(_, action)| matches!(action, Send(_))).map(|(at, _)| *at).collect()
}

#[test]
fn client_invite_repeats_with_timer_a_until_timer_b() {
    let mut out = Vec::new();
    let mut machine = ClientInvite::new(ms(0), b("INVITE"), Unreliable, V, &mut out);
    assert_eq!(out, [Send(b("INVITE"))]);
    let log = run!(machine);
    assert_eq!(sends(&log), [500, 1500, 3500, 7500, 15_500, 31_500]);
    assert_eq!(log.last(), Some(&(32_000, Terminated(Cause::Timeout))));
    let mut machine = ClientInvite::new(ms(0), b("INVITE"), Reliable, V, &mut out);
    assert_eq!(run!(machine), [(32_000, Terminated(Cause::Timeout))]);
}

#[test]
fn client_invite_acks_every_copy_of_a_failure_for_32_seconds() {
    let mut out = Vec::new();
    let mut machine = ClientInvite::new(ms(0), b("INVITE"), Unreliable, V, &mut out);
    out.clear();
    machine.on_response(ms(10), 180, || unreachable!(), &mut out);
    assert_eq!(out, [user(ToUser::Response(180))]);
    assert_eq!(machine.poll_timeout(), None, "Proceeding waits without a timer");
    out.clear();
    machine.on_response(ms(20), 486, || b("ACK"), &mut out);
    assert_eq!(out, [Send(b("ACK")), user(ToUser::Response(486))]);
    out.clear();
    machine.on_response(ms(30), 486, || unreachable!("built once"), &mut out);
    assert_eq!(out, [Send(b("ACK"))]);
    assert_eq!(run!(machine), [(32_020, Terminated(Cause::Normal))]);
    assert!(machine.is_terminated());
}

#[test]
fn client_invite_over_a_stream_ends_with_the_ack() {
    let mut out = Vec::new();
    let mut machine = ClientInvite::new(ms(0), b("INVITE"), Reliable, V, &mut out);
    out.clear();
    machine.on_response(ms(20), 603, || b("ACK"), &mut out);
    assert_eq!(out, [Send(b("ACK")), user(ToUser::Response(603)), Terminated(Cause::Normal)]);
}

#[test]
fn client_invite_rfc6026_accepted_passes_forked_2xx_for_64_t1() {
    for reliability in [Reliable, Unreliable] {
        let mut out = Vec::new();
        let mut machine = ClientInvite::new(ms(0), b("INVITE"), reliability, V, &mut out);
        out.clear();
        for at in [100, 200, 31_000] {
            machine.on_response(ms(at), 200, || unreachable!("the TU acknowledges a 2xx"), &mut out);
        }
        machine.on_response(ms(300), 486, || unreachable!("too late"), &mut out);
        machine.on_response(ms(300), 180, || unreachable!("too late"), &mut out);
        assert_eq!(out, vec![user(ToUser::Response(200)); 3]);
        assert_eq!(run!(machine), [(32_100, Terminated(Cause::Normal))]);
    }
}

#[test]
fn cancel_waits_for_a_provisional_response() {
    let mut out = Vec::new();
    let mut machine = ClientInvite::new(ms(0), b("INVITE"), Unreliable, V, &mut out);
    out.clear();
    machine.cancel(ms(1), &mut out);
    machine.cancel(ms(2), &mut out);
    assert_eq!(out, []);
    machine.on_response(ms(100), 100, || unreachable!(), &mut out);
    assert_eq!(out, [user(ToUser::Response(100)), user(ToUser::CancelNow)]);
    out.clear();
    machine.cancel(ms(101), &mut out);
    assert_eq!(out, [], "told once");
    let mut answered = machine.clone();
    assert_eq!(run!(machine), [(32_100, Terminated(Cause::Timeout))], "no final response in 64 T1: over");
    answered.on_response(ms(200), 487, || b("ACK"), &mut out);
    assert_eq!(out, [Send(b("ACK")), user(ToUser::Response(487))]);
}

#[test]
fn cancel_is_moot_after_a_final_response() {
    let mut out = Vec::new();
    let mut machine = ClientInvite::new(ms(0), b("INVITE"), Unreliable, V, &mut out);
    machine.cancel(ms(1), &mut out);
    out.clear();
    machine.on_response(ms(2), 200, || unreachable!(), &mut out);
    machine.cancel(ms(3), &mut out);
    assert_eq!(out, [user(ToUser::Response(200))]);
}

#[test]
fn client_non_invite_timer_e_is_capped_at_t2() {
    let mut out = Vec::new();
    let mut machine = ClientNonInvite::new(ms(0), b("BYE"), Unreliable, V, &mut out);
    let log = run!(machine);
    assert_eq!(sends(&log), [500, 1500, 3500, 7500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]);
    assert_eq!(log.last(), Some(&(32_000, Terminated(Cause::Timeout))));
}

#[test]
fn client_non_invite_slows_down_after_a_100_and_still_gives_up() {
    let mut out = Vec::new();
    let mut machine = ClientNonInvite::new(ms(0), b("INFO"), Unreliable, V, &mut out);
    out.clear();
    machine.on_response(ms(600), 100, &mut out);
    assert_eq!(out, [user(ToUser::Response(100))]);
    let log = run!(machine);
    assert_eq!(sends(&log), [500, 4500, 8500, 12_500, 16_500, 20_500, 24_500, 28_500]);
    assert_eq!(log.last(), Some(&(32_000, Terminated(Cause::Timeout))));
}

#[test]
fn client_non_invite_absorbs_copies_for_t4() {
    let mut out = Vec::new();
    let mut machine = ClientNonInvite::new(ms(0), b("INFO"), Unreliable, V, &mut out);
    out.clear();
    machine.on_response(ms(10), 200, &mut out);
    machine.on_response(ms(20), 200, &mut out);
    assert_eq!(out, [user(ToUser::Response(200))]);
    assert_eq!(run!(machine), [(5010, Terminated(Cause::Normal))]);
    let mut machine = ClientNonInvite::new(ms(0), b("INFO"), Reliable, V, &mut out);
    out.clear();
    machine.on_response(ms(10), 415, &mut out);
    assert_eq!(out, [user(ToUser::Response(415)), Terminated(Cause::Normal)]);
}

#[test]
fn client_transport_errors_end_the_transaction() {
    let mut out = Vec::new();
    let mut machine = ClientNonInvite::new(ms(0), b("INFO"), Unreliable, V, &mut out);
    out.clear();
    machine.on_transport_error(ms(1), &mut out);
    machine.on_transport_error(ms(2), &mut out);
    assert_eq!(out, [user(ToUser::TransportError), Terminated(Cause::TransportError)]);
    assert_eq!(machine.poll_timeout(), None);
    let mut machine = ClientInvite::new(ms(0), b("INVITE"), Reliable, V, &mut out);
    let mut ringing = machine.clone();
    out.clear();
    machine.on_transport_error(ms(1), &mut out);
    assert_eq!(out, [user(ToUser::TransportError), Terminated(Cause::TransportError)]);
    out.clear();
    ringing.on_response(ms(1), 180, || unreachable!(), &mut out);
    ringing.on_transport_error(ms(2), &mut out);
    assert_eq!(out, [user(ToUser::Response(180)), user(ToUser::TransportError)], "the answer may come another way");
    assert!(ringing.is_proceeding());
}

#[test]
fn machines_are_small() {
    // At 50 000 non-INVITE requests a second over UDP, 1.6 million of them wait for Timer J.
    assert!(size_of::<ServerNonInvite>() <= 208, "{}", size_of::<ServerNonInvite>());
    assert!(
        size_of::<ServerInvite>() <= 208 && size_of::<ClientInvite>() <= 208 && size_of::<ClientNonInvite>() <= 208
    );
}

#[test]
fn server_invite_owes_a_100_after_200_ms() {
    let mut out = Vec::new();
    let mut machine = ServerInvite::new(ms(0), Unreliable, V);
    machine.on_request(ms(50), &mut out);
    assert_eq!(out, [], "nothing to repeat yet");
    assert_eq!(run!(machine), [(200, user(ToUser::TryingDue))]);
    machine.on_response(ms(210), 100, b("100"), &mut out);
    machine.on_request(ms(220), &mut out);
    machine.on_response(ms(230), 180, b("180"), &mut out);
    machine.on_request(ms(240), &mut out);
    assert_eq!(out, [Send(b("100")), Send(b("100")), Send(b("180")), Send(b("180"))]);
    let mut quick = ServerInvite::new(ms(0), Unreliable, V);
    quick.on_response(ms(1), 183, b("183"), &mut out);
    assert_eq!(quick.poll_timeout(), None, "answered in time: no 100 is owed");
}

#[test]
fn server_invite_repeats_a_failure_with_timer_g_until_timer_h() {
    let mut out = Vec::new();
    let mut machine = ServerInvite::new(ms(0), Unreliable, V);
    machine.on_response(ms(0), 404, b("404"), &mut out);
    machine.on_request(ms(5), &mut out);
    assert_eq!(out, [Send(b("404")), Send(b("404"))]);
    let log = run!(machine);
    assert_eq!(sends(&log), [500, 1500, 3500, 7500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]);
    assert_eq!(log.last(), Some(&(32_000, Terminated(Cause::Timeout))));
    let mut machine = ServerInvite::new(ms(0), Reliable, V);
    machine.on_response(ms(0), 404, b("404"), &mut out);
    assert_eq!(run!(machine), [(32_000, Terminated(Cause::Timeout))]);
}

#[test]
fn server_invite_is_confirmed_by_the_ack() {
    let mut out = Vec::new();
    let mut machine = ServerInvite::new(ms(0), Unreliable, V);
    machine.on_response(ms(0), 404, b("404"), &mut out);
    out.clear();
    machine.on_ack(ms(100), &mut out);
    machine.on_ack(ms(200), &mut out);
    machine.on_request(ms(300), &mut out);
    assert_eq!(out, []);
    assert_eq!(run!(machine), [(5100, Terminated(Cause::Normal))]);
    let mut machine = ServerInvite::new(ms(0), Reliable, V);
    machine.on_response(ms(0), 404, b("404"), &mut out);
    out.clear();
    machine.on_ack(ms(100), &mut out);
    assert_eq!(out, [Terminated(Cause::Normal)]);
}

#[test]
fn server_invite_rfc6026_accepted_absorbs_invites_and_sends_what_the_user_repeats() {
    let mut out = Vec::new();
    let mut machine = ServerInvite::new(ms(0), Unreliable, V);
    machine.on_response(ms(10), 200, b("200"), &mut out);
    assert!(!machine.is_proceeding());
    machine.on_request(ms(20), &mut out);
    assert_eq!(out, [Send(b("200"))], "the copy is absorbed: the TU repeats the 2xx");
    machine.on_response(ms(510), 200, b("200"), &mut out);
    machine.on_response(ms(520), 486, b("486"), &mut out);
    machine.on_ack(ms(530), &mut out);
    machine.on_transport_error(ms(540), &mut out);
    let expected = [Send(b("200")), Send(b("200")), user(ToUser::Ack), user(ToUser::TransportError)];
    assert_eq!(out, expected);
    assert_eq!(run!(machine), [(32_010, Terminated(Cause::Normal))]);
}

#[test]
fn server_non_invite_rfc4320_one_100_late_and_never_a_408() {
    let mut out = Vec::new();
    let mut machine = ServerNonInvite::new(ms(0), Unreliable, V);
    assert!(!machine.on_response(ms(3499), 100, b("100"), &mut out), "too early over UDP");
    assert!(!machine.on_response(ms(3499), 180, b("180"), &mut out), "no other provisional response");
    assert!(!machine.on_response(ms(3499), 408, b("408"), &mut out), "no 408");
    assert_eq!(out, []);
    machine.handle_timeout(ms(3500), &mut out);
    assert_eq!(out, [user(ToUser::TryingDue)]);
    out.clear();
    assert!(machine.on_response(ms(3500), 100, b("100"), &mut out));
    machine.on_request(ms(4000), &mut out);
    assert!(machine.on_response(ms(5000), 200, b("200"), &mut out));
    assert!(!machine.on_response(ms(5001), 500, b("500"), &mut out), "one final response");
    machine.on_request(ms(6000), &mut out);
    assert_eq!(out, [Send(b("100")), Send(b("100")), Send(b("200")), Send(b("200"))]);
    assert_eq!(run!(machine), [(37_000, Terminated(Cause::Normal))]);
    let mut machine = ServerNonInvite::new(ms(0), Reliable, V);
    assert!(machine.on_response(ms(1), 100, b("100"), &mut out), "at any time over a stream");
}

#[test]
fn server_non_invite_rfc4320_stays_silent_when_the_client_has_given_up() {
    let mut out = Vec::new();
    let mut machine = ServerNonInvite::new(ms(0), Unreliable, V);
    let log = run!(machine);
    assert_eq!(log, [(3500, user(ToUser::TryingDue)), (32_000, Terminated(Cause::Timeout))]);
    assert!(!machine.on_response(ms(32_001), 200, b("200"), &mut out));
    assert_eq!(out, []);
}

#[test]
fn a_late_wake_up_repeats_once() {
    let mut out = Vec::new();
    let mut machine = ServerInvite::new(ms(0), Unreliable, V);
    machine.on_response(ms(0), 404, b("404"), &mut out);
    out.clear();
    machine.handle_timeout(ms(20_000), &mut out);
    assert_eq!(out, [Send(b("404"))]);
    out.clear();
    machine.handle_timeout(ms(90_000), &mut out);
    assert_eq!(out.last(), Some(&Terminated(Cause::Timeout)));
    assert_eq!(out.iter().filter(|a| matches!(a, Terminated(_))).count(), 1);
}
