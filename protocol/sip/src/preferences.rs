//! Caller preferences (RFC 3841): which of several contacts a request is for, by what they said of themselves in feature parameters
//! (RFC 3840), the draft's `+mcp.cap` included. Pure functions over the bytes of the headers.

use crate::header::{NameAddr, Params};
use crate::message::{HeaderId, Message, value_and_params};

/// Predicates of one request; more are not read.
pub const MAX_PREDICATES: usize = 8;
/// Values of one feature; more are not read.
const MAX_VALUES: usize = 32;

/// One Accept-Contact or Reject-Contact value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Predicate {
    /// Feature (lower case, as written with its `+`), and the values of which one is wanted; none: the feature as such.
    pub features: Vec<(String, Vec<String>)>,
    /// A contact that does not match is no target (§7.2.4).
    pub require: bool,
    /// A contact that says nothing about a feature does not match it (§7.2.4).
    pub explicit: bool,
}

/// What a request wants of the contact that gets it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preferences {
    /// Accept-Contact.
    pub accept: Vec<Predicate>,
    /// Reject-Contact.
    pub reject: Vec<Predicate>,
}

/// The values of a feature parameter: a list in quotes, of tokens or of strings in angle brackets, negations and numbers as they stand
/// (RFC 3840 §9; the draft's lists have characters that the grammar does not).
#[must_use]
pub fn values(text: &str) -> Vec<String> {
    let inside = text.trim().trim_matches('"');
    let items = inside.split(',').map(|item| item.trim().trim_start_matches('<').trim_end_matches('>').trim());
    items.filter(|item| !item.is_empty()).take(MAX_VALUES).map(str::to_ascii_lowercase).collect()
}

/// Whether a parameter of a Contact is a feature: the base tags of RFC 3840 §9, or with a `+`.
fn is_feature(name: &str) -> bool {
    const BASE: [&str; 18] = [
        "audio",
        "automata",
        "class",
        "duplex",
        "data",
        "control",
        "mobility",
        "description",
        "events",
        "priority",
        "methods",
        "schemes",
        "application",
        "video",
        "language",
        "type",
        "isfocus",
        "actor",
    ];
    name.starts_with('+') || BASE.contains(&name) || name == "text" || name == "extensions"
}

fn predicate(value: &[u8]) -> Option<Predicate> {
    let (star, params) = value_and_params(value).ok()?;
    if star.trim_ascii() != b"*" {
        return None;
    }
    let mut out = Predicate::default();
    for param in params.iter() {
        let name = param.name.to_ascii_lowercase();
        match name.as_str() {
            "require" => out.require = true,
            "explicit" => out.explicit = true,
            _ if is_feature(&name) => {
                let wanted = param.value.map(|_| values(&param.text())).unwrap_or_default();
                out.features.push((name, wanted));
            }
            _ => {}
        }
    }
    Some(out)
}

impl Preferences {
    /// Reads Accept-Contact and Reject-Contact; what cannot be read is passed over, as RFC 3841 §7.2 asks of what is not known.
    #[must_use]
    pub fn of(message: &Message) -> Preferences {
        let all = |id| {
            let values = message.headers(id).flat_map(crate::message::split_list);
            values.filter_map(predicate).take(MAX_PREDICATES).collect()
        };
        Preferences { accept: all(HeaderId::AcceptContact), reject: all(HeaderId::RejectContact) }
    }

    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.accept.is_empty() && self.reject.is_empty()
    }

    /// The values that are wanted of one feature, of all predicates.
    pub fn wanted<'a>(&'a self, feature: &'a str) -> impl Iterator<Item = &'a str> {
        let features = self.accept.iter().flat_map(|p| &p.features);
        features.filter(move |(name, _)| name == feature).flat_map(|(_, values)| values.iter().map(String::as_str))
    }

    /// How well a contact fits, in thousandths (§7.2.4); `None`: it is no target for this request.
    #[must_use]
    pub fn score(&self, contact: &NameAddr<'_>) -> Option<u16> {
        let params = contact.params();
        let immune = !params.iter().any(|p| is_feature(&p.name.to_ascii_lowercase()));
        // A contact that says nothing of itself is immune to caller preferences (§7.2.1), except where it is required to say something.
        if !immune && self.reject.iter().any(|predicate| rejects(predicate, &params)) {
            return None;
        }
        let mut total = 0u32;
        for predicate in &self.accept {
            let fits =
                predicate.features.iter().filter(|(name, wanted)| fits(&params, name, wanted) == Fit::Yes).count();
            let against = predicate.features.iter().any(|(name, wanted)| fits_not(&params, name, wanted));
            let all = predicate.features.len().max(1);
            let missing = predicate.explicit && fits < predicate.features.len();
            if against || missing {
                if predicate.require {
                    return None;
                }
                continue;
            }
            total += u32::try_from(fits * 1000 / all).unwrap_or(0);
        }
        let count = u32::try_from(self.accept.len().max(1)).unwrap_or(1);
        Some(u16::try_from(total / count).unwrap_or(1000))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    Yes,
    No,
    Silent,
}

fn fits(params: &Params<'_>, name: &str, wanted: &[String]) -> Fit {
    let Some(param) = params.iter().find(|p| p.name.eq_ignore_ascii_case(name)) else { return Fit::Silent };
    if wanted.is_empty() {
        return Fit::Yes;
    }
    let offered = values(&param.text());
    let one = |wanted: &String| {
        let negated = wanted.strip_prefix('!');
        match negated {
            Some(other) => !offered.iter().any(|o| same_value(o, other)),
            None => offered.iter().any(|o| same_value(o, wanted)),
        }
    };
    if wanted.iter().any(one) { Fit::Yes } else { Fit::No }
}

fn fits_not(params: &Params<'_>, name: &str, wanted: &[String]) -> bool {
    fits(params, name, wanted) == Fit::No
}

/// `summarize` is offered by who offers `summarize@1`.
fn same_value(offered: &str, wanted: &str) -> bool {
    offered == wanted || (!wanted.contains('@') && offered.split_once('@').is_some_and(|(name, _)| name == wanted))
}

/// Every feature of the predicate is there and fits (§7.2.3: a contact that is silent on one of them stays).
fn rejects(predicate: &Predicate, params: &Params<'_>) -> bool {
    !predicate.features.is_empty()
        && predicate.features.iter().all(|(name, wanted)| fits(params, name, wanted) == Fit::Yes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants(lines: &str) -> Preferences {
        let text = format!(
            "INVITE sip:acme.example SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n\
             From: <sip:a@acme.example>;tag=1\r\nTo: <sip:acme.example>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\n{lines}\r\n"
        );
        let message = Message::parse(text.into_bytes().into(), crate::message::Transportation::Datagram).unwrap();
        Preferences::of(&message)
    }

    fn score(lines: &str, contact: &str) -> Option<u16> {
        wants(lines).score(&NameAddr::parse(contact.as_bytes()).unwrap())
    }

    const OFFERS: &str = "<sip:x@192.0.2.2>;+mcp;+mcp.cap=\"summarize@1,urn:ex:doc:1\";audio";

    #[test]
    fn reg_2_a_required_capability_chooses_and_an_explicit_one_needs_to_be_said() {
        let required = "Accept-Contact: *;+mcp.cap=\"summarize@1\";require;explicit\r\n";
        assert_eq!(score(required, OFFERS), Some(1000));
        assert_eq!(score(required, "<sip:x@192.0.2.2>;+mcp.cap=\"other@1\""), None);
        assert_eq!(score(required, "<sip:x@192.0.2.2>"), None);
        // Without `explicit` a contact that says nothing stays, behind the others.
        assert_eq!(score("Accept-Contact: *;+mcp.cap=\"summarize@1\";require\r\n", "<sip:x@192.0.2.2>"), Some(0));
        // One of several values is enough; a name without a version is any version of it; text is compared without regard to case.
        assert_eq!(score("Accept-Contact: *;+mcp.cap=\"a@1,SUMMARIZE\";require;explicit\r\n", OFFERS), Some(1000));
        assert_eq!(score("a: *;+mcp.cap=\"<summarize@2>\";require\r\n", OFFERS), None);
        assert_eq!(score("Accept-Contact: *;+mcp.cap=\"summarize@1\";video\r\n", OFFERS), Some(500));
    }

    #[test]
    fn a_reject_predicate_removes_only_who_says_all_of_it() {
        assert_eq!(score("Reject-Contact: *;+mcp.cap=\"summarize@1\"\r\n", OFFERS), None);
        assert_eq!(score("Reject-Contact: *;+mcp.cap=\"summarize@1\";video\r\n", OFFERS), Some(0));
        assert_eq!(score("Reject-Contact: *;+mcp.cap=\"other@1\"\r\n", OFFERS), Some(0));
        assert_eq!(score("Reject-Contact: *;+mcp.cap=\"summarize@1\"\r\n", "<sip:x@192.0.2.2>"), Some(0));
    }

    #[test]
    fn what_cannot_be_read_asks_for_nothing() {
        assert!(wants("Accept-Contact: <sip:x@y>;audio\r\n").is_empty());
        assert_eq!(wants("Accept-Contact: *;q=1;audio, *;+mcp\r\n").accept.len(), 2);
        assert_eq!(
            wants("Accept-Contact: *;+mcp.cap=\"a@1,b\"\r\n").wanted("+mcp.cap").collect::<Vec<_>>(),
            ["a@1", "b"]
        );
        assert_eq!(wants(&"Accept-Contact: *;audio\r\n".repeat(20)).accept.len(), MAX_PREDICATES);
    }
}
