//! `sipmcp register`: one binding at a domain.

use serde_json::json;
use sip_proto::escape::escape;
use sip_proto::message::HeaderId;

use crate::args::RegisterArgs;
use crate::caller::Caller;
use crate::failure::Failure;

pub async fn run(args: RegisterArgs) -> Result<(), Failure> {
    let mut caller = Caller::connect(&args.uri, &args.connection).await?;
    let aor = caller.target.uri.clone();
    caller.from.clone_from(&aor);
    let registrar = format!("{}:{}", caller.target.scheme, caller.target.domain);
    let contact = args.contact.clone().unwrap_or_else(|| caller.ua.contact());
    let params: String = args.params.iter().map(|p| format!(";{p}")).collect();
    let head = caller.head();
    let response = caller
        .transact("REGISTER", b"", |cseq, via| {
            let request = head.request("REGISTER", &registrar, &aor, cseq, via);
            if args.query {
                return request;
            }
            let expires = if args.remove || args.remove_all { 0 } else { args.expires };
            let value = if args.remove_all { "*".to_owned() } else { format!("<{contact}>{params}") };
            request.header(HeaderId::Contact, value).header(HeaderId::Expires, expires.to_string())
        })
        .await?;
    if !response.status().is_some_and(|s| (200..300).contains(&s)) {
        let mut failure = Failure::refused(&response, "REGISTER");
        if let Some(min) = response.headers_named("Min-Expires").next() {
            failure.message = format!("{}: ask for at least --expires {}", failure.message, escape(min));
        }
        return Err(failure);
    }
    let contacts: Vec<String> = response.headers(HeaderId::Contact).map(|v| escape(v).to_string()).collect();
    if args.connection.json {
        println!("{}", json!({ "ok": true, "contacts": contacts }));
    } else if contacts.is_empty() {
        println!("nothing is registered for {aor}");
    } else {
        for contact in contacts {
            println!("{contact}");
        }
    }
    Ok(())
}
