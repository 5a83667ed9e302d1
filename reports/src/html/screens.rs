//! The page as a browser shows it: screenshots at desktop and phone width, light and dark, held against what they looked
//! like when somebody last looked at them.
//!
//! Pictures are compared as coarse grids of brightness: fonts and browsers differ from machine to machine, a section
//! that vanished or a layout that fell apart does not.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::tests::sample;

/// Cells across and down.
const GRID: (usize, usize) = (12, 24);
/// Height of all screenshots, in pixels.
const HEIGHT: u32 = 1800;
/// How far a cell may be from its reference, of 255: text that moves by a line stays below, a missing block does not.
const CELL: f64 = 26.0;
/// How far all cells together may be from their reference, on average.
const MEAN: f64 = 6.0;

fn browser() -> PathBuf {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).flat_map(|dir| names.map(|name| dir.join(name))).find(|f| f.is_file());
    found.expect("no Chromium on PATH\nhint: `cargo xtask test --tier component` installs Debian's package")
}

fn chromium(dir: &Path, width: u32, dark: bool, more: &[String]) -> String {
    let page = dir.join("page.html");
    let output = Command::new(browser())
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1"])
        .arg(format!("--user-data-dir={}", dir.join("profile").display()))
        .arg(format!("--window-size={width},{HEIGHT}"))
        .args(dark.then_some("--blink-settings=preferredColorScheme=0"))
        .args(more)
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Brightness of each cell, 0 to 255, row by row.
fn grid(png: &Path) -> Vec<f64> {
    let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(png).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    let (width, height) = (info.width as usize, info.height as usize);
    let step = info.line_size / width;
    let (across, down) = GRID;
    let mut cells = Vec::with_capacity(across * down);
    for row in 0..down {
        for column in 0..across {
            let (mut sum, mut count) = (0.0, 0.0);
            for y in row * height / down..(row + 1) * height / down {
                for x in column * width / across..(column + 1) * width / across {
                    let at = y * info.line_size + x * step;
                    sum += pixels[at..at + 3].iter().map(|c| f64::from(*c)).sum::<f64>() / 3.0;
                    count += 1.0;
                }
            }
            cells.push(sum / count);
        }
    }
    cells
}

fn as_text(cells: &[f64]) -> String {
    let rows = cells.chunks(GRID.0).map(|row| row.iter().map(|c| format!("{c:3.0}")).collect::<Vec<_>>().join(" "));
    rows.map(|row| row + "\n").collect()
}

fn reference(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/html/screens").join(format!("{name}.txt"))
}

/// Where the picture differs from its reference by more than fonts can explain.
fn difference(seen: &[f64], expected: &[f64]) -> Option<String> {
    if seen.len() != expected.len() {
        return Some(format!("{} cells, expected {}", seen.len(), expected.len()));
    }
    let apart: Vec<f64> = seen.iter().zip(expected).map(|(a, b)| (a - b).abs()).collect();
    let mean = apart.iter().sum::<f64>() / apart.len() as f64;
    let worst = apart.iter().copied().fold(0.0, f64::max);
    (mean > MEAN || worst > CELL).then(|| format!("mean {mean:.1} (bound {MEAN}), worst {worst:.1} (bound {CELL})"))
}

#[test]
fn component_the_page_looks_as_it_did_and_fits_a_phone() {
    let dir = tempfile::tempdir().unwrap();
    let measured = "<script>document.body.dataset.overflow = \
                    document.documentElement.scrollWidth - document.documentElement.clientWidth</script></body>";
    std::fs::write(dir.path().join("page.html"), sample().replace("</body>", measured)).unwrap();
    let mut wrong = Vec::new();
    for (name, width, dark) in [
        ("desktop-light", 1280, false),
        ("desktop-dark", 1280, true),
        ("phone-light", 390, false),
        ("phone-dark", 390, true),
    ] {
        let dom = chromium(dir.path(), width, dark, &["--dump-dom".to_owned()]);
        assert!(dom.contains("data-overflow=\"0\""), "{name} is wider than its window");
        let png = dir.path().join(format!("{name}.png"));
        chromium(dir.path(), width, dark, &[format!("--screenshot={}", png.display())]);
        let seen = grid(&png);
        let mean = seen.iter().sum::<f64>() / seen.len() as f64;
        assert_eq!(mean < 128.0, dark, "{name} has a mean brightness of {mean:.0}");
        if std::env::var_os("SHAKEDOWN_NEW_SCREENS").is_some() {
            std::fs::create_dir_all(reference(name).parent().unwrap()).unwrap();
            std::fs::write(reference(name), as_text(&seen)).unwrap();
        }
        let expected = std::fs::read_to_string(reference(name)).unwrap();
        let expected: Vec<f64> = expected.split_whitespace().map(|cell| cell.parse().unwrap()).collect();
        wrong.extend(difference(&seen, &expected).map(|what| format!("{name}: {what}\n{}", as_text(&seen))));
    }
    assert!(
        wrong.is_empty(),
        "look at the page, then keep the new pictures with SHAKEDOWN_NEW_SCREENS=1\n{}",
        wrong.join("\n")
    );
}

#[test]
fn a_missing_block_is_a_difference_and_a_shifted_font_is_not() {
    let expected = vec![250.0; GRID.0 * GRID.1];
    let shifted: Vec<f64> = expected.iter().enumerate().map(|(at, c)| c - (at % 5) as f64).collect();
    assert_eq!(difference(&shifted, &expected), None);
    let mut missing = expected.clone();
    missing[40] -= 60.0;
    assert!(difference(&missing, &expected).is_some());
    assert!(difference(&expected[1..], &expected).is_some());
}
