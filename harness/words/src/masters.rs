//! A client certificate of group `system:masters`: its bearer may do everything, with or without any binding (RBAC-019).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches, UndoStep};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};

use crate::node_command::{first_control_plane, script};
use crate::objects::ObjectRef;
use crate::platform::Platform;
use crate::undo::as_found;

const COMMAND: Duration = Duration::from_secs(30);
/// The binding that gives the group its rights by RBAC.
const BINDING: &str = "cluster-admin";

/// What the certificate's bearer may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bearer {
    /// Organization of the certificate: the user's group.
    pub organization: String,
    /// Status code of the review with the binding there.
    pub code: u16,
    /// Everything is allowed.
    pub everything: bool,
    /// The same while ClusterRoleBinding cluster-admin is gone.
    pub without_binding: bool,
}

impl Observation for Bearer {
    const SCHEMA: &'static str = "masters/1";
}

/// Signs a certificate and asks with it.
#[derive(Debug, Clone)]
pub struct Signs(&'static str);

/// A certificate of a common name that nobody has and this organization, signed by the cluster's own CA for a day.
pub fn certificate_of(organization: &'static str) -> Signs {
    Signs(organization)
}

impl Probe<Platform> for Signs {
    type Seen = Bearer;

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Resource::Component("cluster-wide".to_owned()))
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Bearer, ObserveError> {
        let node = first_control_plane(platform).map_err(ObserveError::no_ground)?;
        let folder = format!("/tmp/{}", cx.name("certificate"));
        let binding = ObjectRef::cluster("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", BINDING);
        let found = as_found(platform, &binding).await.map_err(ObserveError::no_ground)?;
        cx.undo_afterwards(vec![UndoStep::RemoveFile { node: node.clone(), path: folder.clone() }, found.clone()])?;
        let everything = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {"verb": "*", "group": "*", "resource": "*"}},
        });
        let sign = format!(
            "mkdir -m 700 -p {folder}; cd {folder}; p=/etc/kubernetes/pki; \
             openssl req -new -newkey rsa:2048 -nodes -keyout key.pem -out csr.pem -subj '/O={organization}/CN=shakedown-nobody' 2>/dev/null; \
             openssl x509 -req -in csr.pem -CA $p/ca.crt -CAkey $p/ca.key -set_serial 0x$(openssl rand -hex 8) -days 1 -out cert.pem 2>/dev/null",
            organization = self.0,
        );
        script(platform, &node, &sign, COMMAND).await.map_err(ObserveError::no_ground)?;
        let ask = format!(
            "cd {folder}; curl -s -m 10 --noproxy '*' --cacert /etc/kubernetes/pki/ca.crt --cert cert.pem --key key.pem \
             -w '\\n%{{http_code}}' -H 'Content-Type: application/json' -d '{everything}' \
             https://127.0.0.1:6443/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        );
        let asked = async || -> Result<(u16, bool), ObserveError> {
            let out = script(platform, &node, &ask, COMMAND).await.map_err(ObserveError::no_ground)?;
            let text = String::from_utf8_lossy(&out).into_owned();
            let (body, code) = text.trim_end().rsplit_once('\n').unwrap_or_default();
            let body: Value = serde_json::from_str(body).unwrap_or_default();
            Ok((code.parse().unwrap_or_default(), body["status"]["allowed"] == true))
        };
        let (code, with_binding) = asked().await?;
        platform.delete(&binding).await.map_err(ObserveError::no_ground)?;
        let without = asked().await;
        crate::undo::undo(platform, &found).await.map_err(ObserveError::harness)?;
        let (_, without_binding) = without?;
        Ok(Bearer { organization: self.0.to_owned(), code, everything: with_binding, without_binding })
    }
}

/// Everything is allowed, and no binding is needed for it.
pub fn may_everything_without_a_binding() -> impl Expect<Bearer> {
    expect_fn(|seen: &Bearer| {
        if seen.code != 201 {
            return Judgement::Inconclusive(format!("the review was answered {}", seen.code));
        }
        let mut found = vec![];
        for (what, allowed) in [("with cluster-admin bound", seen.everything), ("without it", seen.without_binding)] {
            if !allowed {
                found.push(Finding::new("right-missing", &seen.organization, format!("not everything {what}")));
            }
        }
        Judgement::from_findings(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;

    #[test]
    fn each_defect_has_its_code() {
        let good = Bearer { organization: "system:masters".into(), code: 201, everything: true, without_binding: true };
        let judge = |seen: &Bearer| codes(may_everything_without_a_binding().judge(seen));
        assert!(judge(&good).is_empty());
        assert_eq!(judge(&Bearer { without_binding: false, ..good.clone() }), ["right-missing"]);
        assert!(judge(&Bearer { code: 401, ..good })[0].starts_with("Inconclusive"));
    }
}
