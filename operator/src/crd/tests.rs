use kube::core::cel::ValidationErrors;
use serde_json::{Value, json};

use super::*;

/// An object as the API server hands it to the rules: with its defaults.
fn domain(spec: Value) -> SendingDomain {
    let object = json!({
        "apiVersion": "stagepost.dev/v1alpha1", "kind": "SendingDomain", "metadata": {"name": "shop"}, "spec": spec
    });
    serde_json::from_value(object).unwrap()
}

fn credential(spec: Value) -> SmtpCredential {
    let object = json!({
        "apiVersion": "stagepost.dev/v1alpha1", "kind": "SmtpCredential", "metadata": {"name": "app"}, "spec": spec
    });
    serde_json::from_value(object).unwrap()
}

fn account(spec: Value) -> Account {
    let object = json!({
        "apiVersion": "stagepost.dev/v1alpha1", "kind": "Account", "metadata": {"name": "shop"}, "spec": spec
    });
    serde_json::from_value(object).unwrap()
}

fn refusals(judged: Result<(), ValidationErrors>) -> Vec<String> {
    judged.err().into_iter().flat_map(ValidationErrors::into_vec).map(|error| error.message).collect()
}

fn old_account() -> Account {
    account(json!({"name": "shop"}))
}

fn why(spec: Value) -> Vec<String> {
    refusals(domain(spec).validate_cel())
}

#[test]
fn a_domain_is_lower_case_and_has_two_labels() {
    for name in ["example.com", "xn--mnchen-3ya.example", "a.b.c.d", "1.example"] {
        assert_eq!(why(json!({"domain": name, "account": "shop"})), Vec::<String>::new(), "{name}");
    }
    for name in [
        "Example.com",
        "example",
        "example.com.",
        "-a.example",
        "a-.example",
        "a..b",
        "a_b.example",
        "ä.example",
    ] {
        let messages = why(json!({"domain": name, "account": "shop"}));
        assert!(
            messages.iter().any(|message| message.contains("lower case letters")),
            "{name}: {messages:?}"
        );
    }
    let long = format!("{}.example", "x".repeat(64));
    let messages = why(json!({"domain": long, "account": "shop"}));
    assert_eq!(messages, ["a label of a domain has at most 63 characters"]);
}

#[test]
fn what_would_not_work_together_is_refused_in_plain_words() {
    let spec = |more: Value| {
        let mut spec = json!({"domain": "example.com", "account": "shop"});
        let more = more.as_object().unwrap().clone();
        spec.as_object_mut().unwrap().extend(more);
        why(spec)
    };
    let existing = json!({"name": "key", "selector": "mail"});
    for (more, part) in [
        (json!({"returnPath": {"domain": "bounces.example.org"}}), "SPF isn't aligned"),
        (json!({"returnPath": {"domain": "bouncesexample.com"}}), "SPF isn't aligned"),
        (json!({"returnPath": {"domain": "Bounces"}}), "bounces.example.com"),
        (json!({"dkim": {"algorithms": ["Ed25519"]}}), "RSA-2048 must be among"),
        (json!({"dkim": {"rotationDays": 7}}), "14 days or more"),
        (json!({"dkim": {"cnameZone": "dkim"}}), "dkim.example.net"),
        (
            json!({"dkim": {"cnameZone": "dkim.example.net", "existingSecret": existing}}),
            "leave cnameZone away",
        ),
        (json!({"dkim": {"existingSecret": {"name": "key", "selector": "Mail.1"}}}), "a selector has"),
        (json!({"dns": {"resolvers": ["resolver.example.net"]}}), "a resolver is an IP address"),
        (json!({"dns": {"mode": "ExternalDNS"}, "dkim": {"cnameZone": "example.com"}}), "another zone"),
    ] {
        let messages = spec(more.clone());
        assert!(messages.iter().any(|message| message.contains(part)), "{more}: {messages:?}");
    }
    for more in [
        json!({"returnPath": {"domain": "bounces.example.com"}}),
        json!({"returnPath": {"domain": "example.com"}}),
        json!({"dkim": {"algorithms": ["RSA-2048"], "rotationDays": 0}}),
        json!({"dkim": {"cnameZone": "dkim.example.net", "rotationDays": 14}}),
        json!({"dkim": {"existingSecret": existing}}),
        json!({"dns": {"resolvers": ["192.0.2.53", "192.0.2.53:5353", "2001:db8::53", "[2001:db8::53]:53"]}}),
    ] {
        assert_eq!(spec(more.clone()), Vec::<String>::new(), "{more}");
    }
}

#[test]
fn what_others_hold_on_to_does_not_change() {
    let old = domain(json!({"domain": "example.com", "account": "shop"}));
    let new = domain(json!({"domain": "example.org", "account": "other", "subdomains": true}));
    let messages = refusals(new.validate_cel_update(&old));
    assert_eq!(messages, ["the domain can't be changed; make another SendingDomain"]);
    let (old, new) = (old_account(), account(json!({"name": "store"})));
    assert_eq!(
        refusals(new.validate_cel_update(&old)),
        ["an account can't be renamed; make another Account"]
    );
    let (old, new) = (credential(json!({"account": "shop"})), credential(json!({"account": "store"})));
    assert_eq!(refusals(new.validate_cel_update(&old)).len(), 1);
    let named = account(json!({}));
    assert_eq!(refusals(old_account().validate_cel_update(&named)).len(), 1);
    let moved = credential(json!({"account": "shop", "secretName": "b"}));
    let old = credential(json!({"account": "shop", "secretName": "a"}));
    assert_eq!(
        refusals(moved.validate_cel_update(&old)),
        ["the Secret can't be renamed; make another SmtpCredential"]
    );
}

#[test]
fn names_of_accounts_and_senders_are_checked() {
    assert_eq!(refusals(account(json!({"name": "shop@eu.example"})).validate_cel()), Vec::<String>::new());
    let messages = refusals(account(json!({"name": "the shop"})).validate_cel());
    assert_eq!(messages, ["a name has letters, digits and . _ - + @"]);
    let messages = refusals(account(json!({"suspendedReason": "a\nb"})).validate_cel());
    assert_eq!(messages, ["a reason is one line of visible ASCII characters"]);
    let spec = json!({"account": "shop", "senderDomains": ["news.example.com", "EXAMPLE.com"]});
    let messages = refusals(credential(spec).validate_cel());
    assert!(messages.len() == 1 && messages[0].contains("lower case"), "{messages:?}");
}

#[test]
fn what_is_not_said_has_its_default() {
    let spec = domain(json!({"domain": "example.com", "account": "shop"})).spec;
    assert_eq!(spec.dkim.algorithms, [KeyAlgorithm::Rsa2048, KeyAlgorithm::Ed25519]);
    assert_eq!((spec.dkim.rotation_days, spec.dns.ttl_secs), (90, 300));
    assert_eq!((spec.dns.mode, spec.dmarc.policy), (DnsMode::Manual, DmarcPolicy::None));
    assert_eq!(credential(json!({"account": "shop"})).spec.rotation_grace_minutes, 60);
    assert_eq!(account(json!({})).spec.plan, Plan::Free);
    let text = serde_json::to_string(&SendingDomain::crd()).unwrap();
    assert!(text.contains(r#""default":90"#) && text.contains(r#""default":"Manual""#), "{text}");
}

#[test]
fn every_field_says_what_it_is_in_lines_that_kubectl_wraps() {
    fn walk(path: &str, schema: &JSONSchemaProps, silent: &mut Vec<String>) {
        for (name, property) in schema.properties.iter().flatten() {
            let path = format!("{path}.{name}");
            let wrapped = |text: &String| text.replace("\n\n", "").contains('\n');
            let described = property.description.as_ref();
            if described.is_none_or(wrapped) && !["spec", "status"].contains(&name.as_str()) {
                silent.push(path.clone());
            }
            walk(&path, property, silent);
        }
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
            walk(path, items, silent);
        }
    }
    for definition in all() {
        let mut silent = Vec::new();
        let version = &definition.spec.versions[0];
        let schema = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref()).unwrap();
        walk(&definition.spec.names.kind, schema, &mut silent);
        assert_eq!(silent, Vec::<String>::new());
        assert_eq!(definition.spec.names.categories, Some(vec![String::from("mail")]));
        assert!(version.subresources.as_ref().unwrap().status.is_some());
        let conditions =
            &schema.properties.as_ref().unwrap()["status"].properties.as_ref().unwrap()["conditions"];
        assert_eq!(conditions.x_kubernetes_list_type.as_deref(), Some("map"));
        assert_eq!(conditions.x_kubernetes_list_map_keys, Some(vec![String::from("type")]));
    }
}

#[test]
fn the_charts_copy_is_what_the_program_prints() {
    let copy = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/stagepost/files/crds.yaml");
    let copy = std::fs::read_to_string(copy).unwrap_or_default();
    let printed = yaml().unwrap();
    let differs = printed.lines().zip(copy.lines()).find(|(printed, copy)| printed != copy);
    assert!(
        copy == printed,
        "{differs:?}: charts/stagepost/files/crds.yaml is stale: run `cargo run -- crds > charts/stagepost/files/crds.yaml`"
    );
}
