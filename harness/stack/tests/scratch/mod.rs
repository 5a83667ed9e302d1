//! An apiserver and an etcd of the bundle for one test: on loopback, in a temporary directory, gone with it.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kube::config::{AuthInfo, Config};
use shakedown_bundle::{Bundle, CacheDir, Selection};
use shakedown_core::{Answer, wait_for};
use tempfile::TempDir;

/// The pair.
pub struct Scratch {
    /// Speaks to it with every right.
    pub client: kube::Client,
    children: Vec<Child>,
    _directory: TempDir,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts the pair and waits until it is ready.
pub async fn start() -> Scratch {
    let bundle =
        Bundle::open(&CacheDir::for_caller().unwrap(), &Selection::core()).expect("run `shakedown bundle build`");
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let ports: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let [etcd, peer, api] = [0, 1, 2].map(|i: usize| ports[i].local_addr().unwrap().port());
    drop(ports);

    let made = Command::new(bundle.bin("kubeadm"))
        .args(["init", "phase", "certs", "sa", "--cert-dir"])
        .arg(at)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::write(at.join("tokens.csv"), "scratch,admin,1,\"system:masters\"\n").unwrap();

    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let members = format!("default={}", url(peer));
    let children = vec![
        spawn(
            &bundle.bin("etcd"),
            at,
            &[
                ("--data-dir", &at.join("etcd").display().to_string()),
                ("--listen-client-urls", &url(etcd)),
                ("--advertise-client-urls", &url(etcd)),
                ("--listen-peer-urls", &url(peer)),
                ("--initial-advertise-peer-urls", &url(peer)),
                ("--initial-cluster", &members),
                ("--unsafe-no-fsync", "true"),
            ],
        ),
        spawn(
            &bundle.bin("kube-apiserver"),
            at,
            &[
                ("--etcd-servers", &url(etcd)),
                ("--bind-address", "127.0.0.1"),
                ("--secure-port", &api.to_string()),
                ("--cert-dir", &at.display().to_string()),
                ("--token-auth-file", &at.join("tokens.csv").display().to_string()),
                ("--authorization-mode", "AlwaysAllow"),
                ("--service-account-issuer", "https://kubernetes.default.svc"),
                ("--service-account-key-file", &at.join("sa.pub").display().to_string()),
                ("--service-account-signing-key-file", &at.join("sa.key").display().to_string()),
                ("--service-cluster-ip-range", "10.96.0.0/16"),
                ("--disable-admission-plugins", "ServiceAccount"),
            ],
        ),
    ];
    let mut config = Config::new(format!("https://127.0.0.1:{api}").parse().unwrap());
    config.accept_invalid_certs = true;
    config.auth_info = AuthInfo { token: Some("scratch".to_owned().into()), ..AuthInfo::default() };
    let client = kube::Client::try_from(config).unwrap();
    let scratch = Scratch { client: client.clone(), children, _directory: directory };
    wait_for("the scratch apiserver", Duration::from_secs(90), || async {
        match client.request_text(shakedown_stack::web::get_request("/readyz").unwrap()).await {
            Ok(_) => Answer::Ready(()),
            Err(error) => Answer::NotYet(error.to_string()),
        }
    })
    .await
    .unwrap();
    scratch
}

fn spawn(program: &Path, at: &Path, flags: &[(&str, &str)]) -> Child {
    let name = program.file_name().unwrap().to_string_lossy().into_owned();
    let log = fs::File::create(at.join(format!("{name}.log"))).unwrap();
    Command::new(program)
        .args(flags.iter().map(|(flag, value)| format!("{flag}={value}")))
        .current_dir(at)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}
