//! Which images are admitted: those signed with the key that a policy names.

use std::time::Duration;

use shakedown_core::Capability::Kyverno;
use shakedown_engine::{Check, check, finds, fixture};
use shakedown_words::kyverno::{pod, requests, within};
use shakedown_words::kyverno_await::Await;
use shakedown_words::kyverno_facts::{admitted, facts, refused};
use shakedown_words::kyverno_scene::{Scene, scene};
use shakedown_words::kyverno_signed::{Image, reference, registry};
use shakedown_words::{ObjectRef, Platform, manifest};

use super::kyverno_common::{SCENES, stage};
use super::kyverno_scenes::in_scenes;

/// The checks of signatures.
pub fn checks() -> Vec<Check<Platform>> {
    vec![only_signed_images_are_admitted()]
}

/// The public half of the key that signed the image `signed`, and of the one that signed `foreign`. Both were made for
/// this check, and their other halves are gone.
const KEYS: [&str; 2] = [
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEjzBErVW/bBF740XJSItPlUwEmtnRMQMb93oNZYIquyDUCcOyo9HwznRUT9gwNmfq48L80mvgT21s2YTCTc7ryQ==",
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEoc9JQUzeEGWj65G6scAdG3hm1f0t3fzMgSYDtrhuhictS4txhXVdqd6RlDPIxz65ogcYfR741RaBxChq/xiY9g==",
];
/// What those keys signed.
const SIGNED: [Image; 3] = [
    Image {
        tag: "signed",
        signature: Some(
            "MEQCIDGhg3Ito7abQlJF/98Q1uyOvZN33a/bCW8bAjOjAzwfAiA9HY6UsDjY9Y54U8I4gQanNV+SHsBKtlYANGxKOoVvag==",
        ),
    },
    Image {
        tag: "foreign",
        signature: Some(
            "MEUCIESiRct/0yRECn/E1QE3zRMppM7G8KxruQ1ukcjLqr94AiEAkxWdLrxqcoN6hrxn9SGW/j6RNdgs6Ehq4bh2tUwRRhw=",
        ),
    },
    Image { tag: "unsigned", signature: None },
];

fn only_signed_images_are_admitted() -> Check<Platform> {
    let image = |tag: &str| within(SCENES, pod("signed-a", &reference(SCENES, tag), requests()));
    let asked = |key: &str| {
        let mut policy = manifest!("signed.yaml");
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{key}\n-----END PUBLIC KEY-----");
        policy["spec"]["rules"][0]["verifyImages"][0]["attestors"][0]["entries"][0]["keys"]["publicKeys"] = pem.into();
        let served = registry(SCENES, &SIGNED).into_iter().fold(scene(), Scene::making);
        served
            .once(Await::Ready(ObjectRef::namespaced("v1", "Pod", SCENES, "registry")))
            .making(policy)
            .once(Await::Refused(image("unsigned"), "no signatures found"))
            .trying("signed", image("signed"))
            .trying("foreign", image("foreign"))
            .trying("unsigned", image("unsigned"))
            .trying("elsewhere", in_scenes("signed-b"))
    };
    check("kyverno.only-signed-images-are-admitted")
        .asserts(["KYV-008", "KYV-058"])
        .needs([Kyverno])
        .within(Duration::from_secs(240))
        .observe(asked(KEYS[0]))
        .with(fixture(stage()))
        .expect(facts(vec![
            ("signed", admitted()),
            ("foreign", refused(&["shakedown-signed", "failed to verify image"])),
            ("unsigned", refused(&["shakedown-signed", "failed to verify image", "no signatures found"])),
            ("elsewhere", admitted()),
        ]))
        .sabotage_input("the policy names the other key", asked(KEYS[1]), finds("refused"))
        .remedy("sign the image with the key whose public half the policy names")
}
