//! Drives a build by hand.
#![allow(clippy::print_stdout)]
use shakedown_bundle::*;
fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let cache = CacheDir::for_caller().map_err(|e| e.to_string()).unwrap_or_else(|e| {
        eprintln!("{e}");
        std::process::exit(2)
    });
    let p = Lines::default();
    let sel: Selection = args.get(1).map_or("core", |s| s.as_str()).parse().unwrap_or_default();
    let r = match args[0].as_str() {
        "lock" => lock_text(&cache, args.get(2).is_some(), &p).map(|t| println!("{t}")),
        "build" => build(&cache, &sel, &p).map(|b| println!("{} {:?}", b.id(), b.images())),
        "open" => Bundle::open(&cache, &sel).map(|b| println!("{} {:?} {:?}", b.id(), b.bins(), b.bin("kubeadm"))),
        "verify" => verify(&cache, &sel, &p).map(|v| println!("{v:#?}")),
        _ => Ok(()),
    };
    if let Err(e) = r {
        eprintln!("{e}");
        std::process::exit(1)
    }
}
