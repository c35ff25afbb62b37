//! Valid input that was mangled: what decoders meet behind a bad disk, a bad cable or a bad program.
//!
//! Arbitrary bytes seldom get past a decoder's first check. Valid ones with a few faults in them do.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// One fault. Places are drawn anew for whatever length the input has by then.
#[derive(Debug, Clone)]
enum Fault<T> {
    Flip { at: Index, bit: u32 },
    Cut { at: Index },
    Drop { from: Index, to: Index },
    Repeat { from: Index, to: Index, at: Index },
    Swap { from: Index, middle: Index, to: Index },
    Insert { at: Index, items: Vec<T> },
    Blank { from: Index, to: Index },
}

/// What a fault may strike.
trait Item: Clone + std::fmt::Debug + 'static {
    const BLANK: Self;
    fn flipped(&self, bit: u32) -> Self;
    fn any() -> BoxedStrategy<Self>;
}

impl Item for u8 {
    const BLANK: u8 = 0;
    fn flipped(&self, bit: u32) -> u8 {
        self ^ (1 << (bit % 8))
    }
    fn any() -> BoxedStrategy<u8> {
        any::<u8>().boxed()
    }
}

/// What decides about the meaning of a text in one grammar or another.
const SIGNS: &[char] = &[
    '\'',
    '"',
    '\\',
    '\n',
    '\r',
    '\t',
    '\0',
    ' ',
    '=',
    '%',
    '/',
    '&',
    '?',
    '#',
    '{',
    '}',
    '[',
    ']',
    '(',
    ')',
    ':',
    ';',
    ',',
    '.',
    '-',
    '+',
    '*',
    '_',
    '$',
    '0',
    '9',
    'e',
    'A',
    '\u{1b}',
    '\u{7f}',
    '\u{a0}',
    '\u{2028}',
    'ß',
    '\u{10ffff}',
];

impl Item for char {
    const BLANK: char = ' ';
    fn flipped(&self, bit: u32) -> char {
        char::from_u32(u32::from(*self) ^ (1 << (bit % 8))).unwrap_or('\u{fffd}')
    }
    fn any() -> BoxedStrategy<char> {
        prop_oneof![prop::sample::select(SIGNS), any::<char>()].boxed()
    }
}

fn fault<T: Item>() -> impl Strategy<Value = Fault<T>> {
    let place = any::<Index>;
    prop_oneof![
        3 => (place(), 0..8_u32).prop_map(|(at, bit)| Fault::Flip { at, bit }),
        1 => place().prop_map(|at| Fault::Cut { at }),
        1 => (place(), place()).prop_map(|(from, to)| Fault::Drop { from, to }),
        1 => (place(), place(), place()).prop_map(|(from, to, at)| Fault::Repeat { from, to, at }),
        1 => (place(), place(), place()).prop_map(|(from, middle, to)| Fault::Swap { from, middle, to }),
        2 => (place(), vec(T::any(), 1..12)).prop_map(|(at, items)| Fault::Insert { at, items }),
        1 => (place(), place()).prop_map(|(from, to)| Fault::Blank { from, to }),
    ]
}

impl<T: Item> Fault<T> {
    fn strike(&self, input: &mut Vec<T>) {
        let length = input.len();
        // Behind the last item is a place too.
        let place = |at: &Index| at.index(length + 1);
        let span = |one: &Index, other: &Index| {
            let (one, other) = (place(one), place(other));
            one.min(other)..one.max(other)
        };
        match self {
            Fault::Flip { at, bit } => {
                if let Some(item) = input.get_mut(place(at)) {
                    *item = item.flipped(*bit);
                }
            }
            Fault::Cut { at } => input.truncate(place(at)),
            Fault::Drop { from, to } => drop(input.drain(span(from, to))),
            Fault::Repeat { from, to, at } => {
                let again = input[span(from, to)].to_vec();
                let at = place(at);
                input.splice(at..at, again);
            }
            Fault::Swap { from, middle, to } => {
                let mut places = [place(from), place(middle), place(to)];
                places.sort_unstable();
                input[places[0]..places[2]].rotate_left(places[1] - places[0]);
            }
            Fault::Insert { at, items } => {
                let at = place(at);
                input.splice(at..at, items.iter().cloned());
            }
            Fault::Blank { from, to } => input[span(from, to)].fill(T::BLANK),
        }
    }
}

fn struck<T: Item>(valid: Vec<T>, faults: std::ops::Range<usize>) -> impl Strategy<Value = Vec<T>> {
    vec(fault::<T>(), faults).prop_map(move |faults| {
        let mut input = valid.clone();
        for fault in &faults {
            fault.strike(&mut input);
        }
        input
    })
}

/// `valid` with one to four faults; now and then they leave it as it was.
pub fn bytes(valid: &[u8]) -> impl Strategy<Value = Vec<u8>> + use<> {
    struck(valid.to_vec(), 1..5)
}

/// `valid` with one fault.
pub fn bytes_once(valid: &[u8]) -> impl Strategy<Value = Vec<u8>> + use<> {
    struck(valid.to_vec(), 1..2)
}

/// `valid` with one to four faults among its characters.
pub fn text(valid: &str) -> impl Strategy<Value = String> + use<> {
    struck(valid.chars().collect::<Vec<char>>(), 1..5).prop_map(String::from_iter)
}

/// Characters of every kind, those that grammars care about more often than others.
pub fn any_text(length: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    vec(char::any(), length).prop_map(String::from_iter)
}

/// How many cases a test that costs more, or less, than others should try: `usually`, unless `PROPTEST_CASES` asks for
/// more or for fewer, in proportion.
#[must_use]
pub fn cases(usually: u32) -> ProptestConfig {
    let config = ProptestConfig::default();
    let cases = u64::from(config.cases) * u64::from(usually) / 256;
    ProptestConfig {
        cases: u32::try_from(cases.max(1)).unwrap_or(u32::MAX),
        ..config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::strategy::ValueTree;

    proptest! {
        #[test]
        fn faults_strike_anything_without_a_panic(
            input in vec(any::<u8>(), 0..20).prop_flat_map(|valid| bytes(&valid)),
            text in any_text(0..20).prop_flat_map(|valid| text(&valid)),
        ) {
            prop_assert!(input.len() < 10_000 && text.len() < 40_000);
        }
    }

    #[test]
    fn most_mangled_input_differs_from_what_it_was() {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let strategy = bytes(b"a valid input");
        let same = (0..1_000)
            .filter(|_| {
                let drawn = strategy.new_tree(&mut runner).expect("a case").current();
                drawn == b"a valid input"
            })
            .count();
        assert!(same < 250, "{same} of 1000");
    }
}
