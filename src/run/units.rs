//! Numbers as people read them.

/// 1 − after / before, in percent.
pub fn percent_removed(before: u64, after: u64) -> f64 {
    100.0 * (1.0 - after as f64 / before as f64)
}

/// after / before − 1, in percent: 0, and not −0, where nothing changes.
pub fn percent_changed(before: u64, after: u64) -> f64 {
    100.0 * (after as f64 / before as f64 - 1.0)
}

/// 1234567 → 1,234,567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time in the unit that fits it.
pub fn duration(seconds: f64) -> String {
    match seconds {
        ..90.0 => format!("{seconds:.0} s"),
        90.0..5400.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

/// A size in the unit that fits it.
pub fn bytes(count: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.2} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_the_same_changes_by_nothing_and_not_by_less() {
        let shown = |before: u64, after: u64| format!("{:+.2} %", percent_changed(before, after));
        assert_eq!(["+0.00 %", "-20.00 %", "+50.00 %"], [shown(7, 7), shown(10, 8), shown(2, 3)]);
    }
}
