//! Who has a name that several objects want: the oldest, over all namespaces.

use kube::ResourceExt as _;

use crate::crd::SendingDomain;

/// The object that holds a domain's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// Another object that has a better claim to a domain than this one, if there is one. An object that is being deleted has none.
pub(crate) fn rival<'a>(
    domain: &SendingDomain,
    all: impl IntoIterator<Item = &'a SendingDomain>,
) -> Option<Holder> {
    // The API server gives out times of whole seconds; of two objects of one second the lesser id decides.
    let rank = |object: &SendingDomain| {
        let created = object.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (created, object.uid())
    };
    let own = rank(domain);
    let claims = all.into_iter().filter(|other| {
        other.spec.domain == domain.spec.domain
            && other.metadata.deletion_timestamp.is_none()
            && other.uid() != domain.uid()
            && rank(other) < own
    });
    let first = claims.min_by_key(|other| rank(other))?;
    Some(Holder { namespace: first.namespace().unwrap_or_default(), name: first.name_any() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(namespace: &str, uid: &str, second: u32, domain: &str) -> SendingDomain {
        let object = json!({
            "apiVersion": "stagepost.dev/v1alpha1", "kind": "SendingDomain",
            "metadata": {
                "name": "sd", "namespace": namespace, "uid": uid,
                "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")
            },
            "spec": {"domain": domain, "account": "shop"}
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn the_oldest_has_the_name_and_others_are_told_who_it_is() {
        let (first, second) = (object("a", "2", 5, "example.com"), object("b", "1", 6, "example.com"));
        let (twin, other) = (object("c", "3", 5, "example.com"), object("d", "0", 1, "example.org"));
        let all = [second.clone(), twin.clone(), first.clone(), other.clone()];
        assert_eq!(rival(&first, &all), None);
        assert_eq!(rival(&other, &all), None);
        for loser in [&second, &twin] {
            assert_eq!(rival(loser, &all).unwrap().namespace, "a");
        }
        let mut leaving = first.clone();
        leaving.metadata.deletion_timestamp = first.metadata.creation_timestamp;
        let all = [second.clone(), twin.clone(), leaving];
        assert_eq!(rival(&twin, &all), None);
        assert_eq!(rival(&second, &all).unwrap().namespace, "c");
    }
}
