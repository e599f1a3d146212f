//! Digest: our server and client against each other, against `digest_auth` as an independent client, and against the vectors
//! of RFC 7616.

use digest_auth::{AuthContext, HttpMethod, WwwAuthenticateHeader};
use sip_proto::auth::{
    Algorithm, BadCredentials, ClientSecret, ClientUser, DigestRequest, DigestServer, NONCE_LIFETIME_MS, NoAnswer,
    NonceKey, NonceKeys, Qop, Verdict, a1, answer,
};
use sip_proto::time::UnixMillis;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const REALM: &str = "demo.example";

fn keys() -> NonceKeys {
    NonceKeys { current: NonceKey { kid: 1, secret: vec![7; 32] }, other: None }
}

fn register() -> DigestRequest<'static> {
    DigestRequest { method: "REGISTER", uri: "sip:demo.example", body: b"" }
}

fn alice(password: &str) -> ClientUser<'_> {
    ClientUser { username: "alice", realm: REALM, secret: ClientSecret::Password(password), allow_md5: true }
}

fn verify(server: &DigestServer, value: &str, request: &DigestRequest<'_>, now: UnixMillis) -> Verdict {
    match server.credentials([value.as_bytes()]) {
        Ok(Some(credentials)) => {
            let known = (credentials.username == "alice").then(|| a1(credentials.algorithm, "alice", REALM, "secret"));
            server.verify(&credentials, request, known.as_deref(), &keys(), now)
        }
        Ok(None) => panic!("no credentials in {value}"),
        Err(bad) => Verdict::Bad(bad),
    }
}

fn bytes(values: &[String]) -> impl Iterator<Item = &[u8]> {
    values.iter().map(String::as_bytes)
}

#[test]
fn sec_4_digest_is_sha256_and_sha512_256_and_md5_only_when_allowed() {
    let server = DigestServer::new(1, REALM, &[]);
    let challenges = server.challenge(&keys(), NOW, &[9; 16], false);
    assert_eq!(challenges.len(), 2, "one header field each");
    assert!(challenges[0].contains("algorithm=SHA-512-256") && challenges[1].contains("algorithm=SHA-256"));

    let strongest = answer(bytes(&challenges), &register(), &alice("secret"), 1, "c0").unwrap();
    assert_eq!(strongest.algorithm, Algorithm::Sha512_256);
    let Verdict::Verified(verified) = verify(&server, &strongest.value, &register(), NOW) else { panic!() };
    assert_eq!((verified.username.as_str(), verified.nc, verified.names_request_uri), ("alice", 1, true));
    assert_eq!(verified.nonce, strongest.nonce);

    // MD5 credentials with this very nonce are no credentials here.
    let md5_challenge = challenges[1].replace("SHA-256", "MD5");
    let md5 = answer([md5_challenge.as_bytes()], &register(), &alice("secret"), 1, "c0").unwrap();
    assert_eq!(verify(&server, &md5.value, &register(), NOW), Verdict::Bad(BadCredentials::Algorithm));
    // Nor are they when the client leaves the algorithm out, which means MD5.
    let bare = md5.value.replace(", algorithm=MD5", "");
    assert_eq!(verify(&server, &bare, &register(), NOW), Verdict::Bad(BadCredentials::Algorithm));

    let lenient = DigestServer::new(1, REALM, &[Algorithm::Md5, Algorithm::Sha256]);
    let challenges = lenient.challenge(&keys(), NOW, &[9; 16], false);
    assert!(challenges[0].contains("algorithm=SHA-256") && challenges[1].contains("algorithm=MD5"));
    assert!(matches!(verify(&lenient, &md5.value, &register(), NOW), Verdict::Verified(_)));
    assert!(matches!(verify(&lenient, &bare, &register(), NOW), Verdict::Verified(_)));
}

#[test]
fn sec_4_an_independent_client_is_verified() {
    for algorithm in Algorithm::ALL {
        for offer_auth_int in [false, true] {
            let mut server = DigestServer::new(3, REALM, &[algorithm]);
            server.offer_auth_int = offer_auth_int;
            let challenge = server.challenge(&keys(), NOW, &[1; 16], false).remove(0);
            let mut prompt = WwwAuthenticateHeader::parse(&challenge).unwrap();
            let request = DigestRequest { method: "MESSAGE", uri: "sip:echo@demo.example", body: b"{\"a\":1}" };
            let method = HttpMethod(std::borrow::Cow::Borrowed("MESSAGE"));
            for nc in 1..=3 {
                let context =
                    AuthContext::new_with_method("alice", "secret", request.uri, Some(request.body), method.clone());
                let value = prompt.respond(&context).unwrap().to_header_string();
                let Verdict::Verified(verified) = verify(&server, &value, &request, NOW) else {
                    panic!("{algorithm:?}: {value}")
                };
                assert_eq!((verified.nc, verified.algorithm), (nc, algorithm));
                let other = DigestRequest { method: "INVITE", ..request };
                assert_eq!(verify(&server, &value, &other, NOW), Verdict::Bad(BadCredentials::Wrong));
            }
        }
    }
}

#[test]
fn auth_int_protects_the_body() {
    let mut server = DigestServer::new(1, REALM, &[]);
    server.offer_auth_int = true;
    let challenges = server.challenge(&keys(), NOW, &[1; 16], false);
    let only_int: Vec<String> = challenges.iter().map(|c| c.replace("\"auth,auth-int\"", "\"auth-int\"")).collect();
    let request = DigestRequest { method: "MESSAGE", uri: "sip:x@demo.example", body: b"one" };
    let value = answer(bytes(&only_int), &request, &alice("secret"), 1, "c").unwrap().value;
    assert!(value.contains(&format!("qop={}", Qop::AuthInt.as_str())));
    assert!(matches!(verify(&server, &value, &request, NOW), Verdict::Verified(_)));
    let tampered = DigestRequest { body: b"two", ..request };
    assert_eq!(verify(&server, &value, &tampered, NOW), Verdict::Bad(BadCredentials::Wrong));
}

#[test]
fn sec_4_nonces_expire_and_belong_to_tenant_realm_and_key() {
    let server = DigestServer::new(1, REALM, &[Algorithm::Sha256]);
    let challenges = server.challenge(&keys(), NOW, &[1; 16], false);
    let value = answer(bytes(&challenges), &register(), &alice("secret"), 1, "c").unwrap().value;
    let at = |millis| verify(&server, &value, &register(), NOW.plus_millis(millis));
    assert!(matches!(at(NONCE_LIFETIME_MS), Verdict::Verified(_)));
    assert_eq!(at(NONCE_LIFETIME_MS + 1), Verdict::Stale);
    let stale = server.challenge(&keys(), NOW, &[2; 16], true);
    assert!(stale[0].ends_with("stale=true"));
    assert!(answer(bytes(&stale), &register(), &alice("secret"), 1, "c").unwrap().stale);

    // A right secret with a nonce that is not ours: a fresh challenge, nothing else.
    let elsewhere = DigestServer::new(2, REALM, &[Algorithm::Sha256]);
    assert_eq!(verify(&elsewhere, &value, &register(), NOW), Verdict::Stale);
    let credentials = server.credentials([value.as_bytes()]).unwrap().unwrap();
    let ha1 = a1(Algorithm::Sha256, "alice", REALM, "secret");
    let check = |keys: &NonceKeys| server.verify(&credentials, &register(), Some(&ha1), keys, NOW);
    let new = NonceKey { kid: 2, secret: vec![8; 32] };
    let rotated = NonceKeys { current: new.clone(), other: Some(keys().current) };
    assert!(matches!(check(&rotated), Verdict::Verified(_)), "the other key stays valid");
    assert_eq!(check(&NonceKeys { current: new, other: None }), Verdict::Stale);
    let same_kid = NonceKey { kid: 1, secret: vec![8; 32] };
    assert_eq!(check(&NonceKeys { current: same_kid, other: None }), Verdict::Stale);
    // A wrong secret is never told that its nonce is old.
    let wrong = answer(bytes(&challenges), &register(), &alice("wrong"), 1, "c").unwrap().value;
    assert_eq!(
        verify(&server, &wrong, &register(), NOW.plus_millis(NONCE_LIFETIME_MS * 2)),
        Verdict::Bad(BadCredentials::Wrong)
    );
}

#[test]
fn sec_4_unknown_user_and_wrong_secret_look_alike() {
    let server = DigestServer::new(1, REALM, &[]);
    let challenges = server.challenge(&keys(), NOW, &[1; 16], false);
    let bob = ClientUser { username: "bob", ..alice("secret") };
    for user in [bob, alice("wrong")] {
        let value = answer(bytes(&challenges), &register(), &user, 1, "c").unwrap().value;
        assert_eq!(verify(&server, &value, &register(), NOW), Verdict::Bad(BadCredentials::Wrong));
    }
    // The stand-in for a missing H(A1) opens nothing.
    let zeros = "0".repeat(64);
    let nobody = ClientUser { username: "bob", secret: ClientSecret::Ha1(Algorithm::Sha256, &zeros), ..alice("") };
    let value = answer(bytes(&challenges), &register(), &nobody, 1, "c").unwrap().value;
    assert_eq!(verify(&server, &value, &register(), NOW), Verdict::Bad(BadCredentials::Wrong));
}

#[test]
fn credentials_of_other_realms_are_passed_over_and_broken_ones_are_refused() {
    let server = DigestServer::new(1, REALM, &[]);
    let challenges = server.challenge(&keys(), NOW, &[1; 16], false);
    let good = answer(bytes(&challenges), &register(), &alice("secret"), 1, "c").unwrap().value;
    let foreign = good.replace("realm=\"demo.example\"", "realm=\"other.example\"");
    let found = server.credentials([b"Bearer x=y".as_slice(), foreign.as_bytes(), good.as_bytes()]).unwrap();
    assert_eq!(found.unwrap().username, "alice");
    assert_eq!(server.credentials([foreign.as_bytes()]), Ok(None));
    assert_eq!(server.credentials(std::iter::empty()), Ok(None));
    assert_eq!(server.credentials([b"Digest \xff".as_slice()]), Err(BadCredentials::Malformed));
    let broken = [
        (good.replace("qop=auth", "qop=none"), BadCredentials::Qop),
        (good.replace(", qop=auth", ""), BadCredentials::Qop),
        (good.replace("nc=00000001", "nc=1"), BadCredentials::Malformed),
        (good.replace("nc=00000001", "nc=00000000"), BadCredentials::Malformed),
        (good.replace("nc=00000001", "nc=+0000001"), BadCredentials::Malformed),
        (good.replace("response=\"", "response=\"0"), BadCredentials::Malformed),
        (good.replace("username=\"alice\", ", ""), BadCredentials::Malformed),
        (good.replace("SHA-512-256", "SHA-512-256-sess"), BadCredentials::Algorithm),
        (format!("{good}, userhash=true"), BadCredentials::Malformed),
    ];
    for (value, error) in broken {
        assert_eq!(server.credentials([value.as_bytes()]), Err(error), "{value}");
    }
}

#[test]
fn the_client_answers_its_own_realm_only() {
    let server = DigestServer::new(1, "evil.example", &[]);
    let challenges = server.challenge(&keys(), NOW, &[1; 16], false);
    let refused = answer(bytes(&challenges), &register(), &alice("secret"), 1, "c");
    assert_eq!(refused, Err(NoAnswer::ForeignRealm("evil.example".into())));
    assert_eq!(
        answer([b"Basic realm=\"demo.example\"".as_slice()], &register(), &alice("s"), 1, "c"),
        Err(NoAnswer::NoDigest)
    );
    let md5 = b"Digest realm=\"demo.example\", nonce=\"n\", qop=\"auth\"".as_slice();
    let strict = ClientUser { allow_md5: false, ..alice("s") };
    assert_eq!(answer([md5], &register(), &strict, 1, "c"), Err(NoAnswer::Unsupported));
    // Beside a foreign one, its own is still found, and the strongest of them.
    let ours = DigestServer::new(1, REALM, &Algorithm::ALL).challenge(&keys(), NOW, &[1; 16], false);
    let mixed: Vec<String> = challenges.into_iter().chain(ours.into_iter().rev()).collect();
    assert_eq!(answer(bytes(&mixed), &register(), &alice("s"), 1, "c").unwrap().algorithm, Algorithm::Sha512_256);
}

#[test]
fn the_client_echoes_opaque_and_escapes_names() {
    let challenge =
        b"Digest realm=\"demo.example\", nonce=\"a\\\"b\", opaque=\"o\\\\p\", qop=\"auth\", algorithm=SHA-256";
    let user = ClientUser { username: "al\"ice", ..alice("s") };
    let value = answer([challenge.as_slice()], &register(), &user, 1, "c\"x").unwrap().value;
    assert!(value.contains("username=\"al\\\"ice\""), "{value}");
    assert!(
        value.contains("nonce=\"a\\\"b\"") && value.contains("opaque=\"o\\\\p\"") && value.contains("cnonce=\"cx\"")
    );
}

/// RFC 7616 §3.9.1: one request, SHA-256 and MD5.
#[test]
fn rfc7616_vectors() {
    let request = DigestRequest { method: "GET", uri: "/dir/index.html", body: b"" };
    let user = ClientUser {
        username: "Mufasa",
        realm: "http-auth@example.org",
        secret: ClientSecret::Password("Circle of Life"),
        allow_md5: true,
    };
    let cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
    for (algorithm, expected) in [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ] {
        let challenge = format!(
            "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm={algorithm}, \
             nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\""
        );
        let value = answer([challenge.as_bytes()], &request, &user, 1, cnonce).unwrap().value;
        assert!(value.contains(&format!("response=\"{expected}\"")), "{value}");
    }
}

/// The example of RFC 2617 §3.5, also without qop (RFC 2069), as old servers challenge.
#[test]
fn rfc2617_vector() {
    let request = DigestRequest { method: "GET", uri: "/dir/index.html", body: b"" };
    let user = ClientUser {
        username: "Mufasa",
        realm: "testrealm@host.com",
        secret: ClientSecret::Password("Circle Of Life"),
        allow_md5: true,
    };
    let challenge =
        "Digest realm=\"testrealm@host.com\", qop=\"auth,auth-int\", nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\"";
    let value = answer([challenge.as_bytes()], &request, &user, 1, "0a4f113b").unwrap().value;
    assert!(value.contains("response=\"6629fae49393a05397450978507c4ef1\""), "{value}");
    let old = challenge.replace("qop=\"auth,auth-int\", ", "");
    let value = answer([old.as_bytes()], &request, &user, 1, "0a4f113b").unwrap().value;
    assert!(value.contains("response=\"670fd8c2df070c60b045671b8b24ff02\"") && !value.contains("qop"), "{value}");
}
