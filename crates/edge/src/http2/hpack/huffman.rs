//! The code of HPACK's strings (RFC 7541, 5.2 and appendix B), read four bits at a time.
//!
//! The code is canonical: shorter words come first, and among those of one length the lower symbols. The lengths alone say
//! which word stands for which symbol.

/// How many bits the word of each symbol has; the last one is the end of the string, which never comes as a word.
#[rustfmt::skip]
const BITS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28,
    28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6,
    12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15,
    5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20,
    22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22,
    23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26,
    27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];
const END: u16 = 256;
/// A child that is a symbol, not a node.
const SYMBOL: u16 = 0x8000;
/// As many nodes as a binary tree of 257 leaves has.
const NODES: usize = 256;

/// Where four bits lead from a node.
#[derive(Clone, Copy)]
struct Step {
    next: u8,
    symbol: u8,
    emits: bool,
    /// It leads through the end of the string.
    fails: bool,
}

static STEPS: [[Step; 16]; NODES] = steps(&tree());
/// Whether a string may end at a node: what has come of a word is the beginning of the end's, and less than a byte.
static MAY_END: [bool; NODES] = may_end(&tree());

const fn tree() -> [[u16; 2]; NODES] {
    let mut tree = [[0; 2]; NODES];
    let (mut nodes, mut word, mut bits) = (1, 0_u32, 1);
    while bits <= 30 {
        let mut symbol = 0;
        while symbol < BITS.len() {
            if BITS[symbol] == bits {
                let (mut node, mut at) = (0, bits);
                while at > 1 {
                    at -= 1;
                    let side = (word >> at & 1) as usize;
                    if tree[node][side] == 0 {
                        tree[node][side] = nodes;
                        nodes += 1;
                    }
                    node = tree[node][side] as usize;
                }
                tree[node][(word & 1) as usize] = SYMBOL | symbol as u16;
                word += 1;
            }
            symbol += 1;
        }
        word <<= 1;
        bits += 1;
    }
    tree
}

const fn steps(tree: &[[u16; 2]; NODES]) -> [[Step; 16]; NODES] {
    let mut steps = [[Step { next: 0, symbol: 0, emits: false, fails: false }; 16]; NODES];
    let mut from = 0;
    while from < NODES {
        let mut nibble = 0;
        while nibble < 16 {
            let mut step = Step { next: 0, symbol: 0, emits: false, fails: false };
            let (mut node, mut at) = (from, 4);
            while at > 0 {
                at -= 1;
                let child = tree[node][nibble >> at & 1];
                if child & SYMBOL == 0 {
                    node = child as usize;
                    continue;
                }
                if child & !SYMBOL == END {
                    step.fails = true;
                } else {
                    step.emits = true;
                    step.symbol = (child & 0xff) as u8;
                }
                node = 0;
            }
            step.next = node as u8;
            steps[from][nibble] = step;
            nibble += 1;
        }
        from += 1;
    }
    steps
}

const fn may_end(tree: &[[u16; 2]; NODES]) -> [bool; NODES] {
    let mut may_end = [false; NODES];
    let (mut node, mut bits) = (0, 0);
    while bits < 8 {
        may_end[node] = true;
        node = tree[node][1] as usize;
        bits += 1;
    }
    may_end
}

/// Reads a string. `None` if it is none.
pub fn decode(coded: &[u8], mut put: impl FnMut(u8)) -> Option<()> {
    let mut node = 0;
    for byte in coded {
        for nibble in [byte >> 4, byte & 0xf] {
            let step = STEPS[usize::from(node)][usize::from(nibble)];
            if step.fails {
                return None;
            }
            if step.emits {
                put(step.symbol);
            }
            node = step.next;
        }
    }
    MAY_END[usize::from(node)].then_some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The words of the code, as numbers.
    fn words() -> Vec<u32> {
        let mut order: Vec<usize> = (0..BITS.len()).collect();
        order.sort_by_key(|symbol| (BITS[*symbol], *symbol));
        let (mut words, mut word, mut bits) = (vec![0; BITS.len()], 0, 0);
        for symbol in order {
            word <<= BITS[symbol] - bits;
            (words[symbol], bits) = (word, BITS[symbol]);
            word += 1;
        }
        words
    }

    fn encode(text: &[u8]) -> Vec<u8> {
        let words = words();
        let bits: Vec<u8> =
            text.iter().flat_map(|byte| word_bits(words[usize::from(*byte)], BITS[usize::from(*byte)])).collect();
        bits.chunks(8).map(|byte| (0..8).fold(0, |all, at| all << 1 | byte.get(at).copied().unwrap_or(1))).collect()
    }

    fn word_bits(word: u32, bits: u8) -> impl Iterator<Item = u8> {
        (0..bits).rev().map(move |at| (word >> at & 1) as u8)
    }

    fn decoded(coded: &[u8]) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        decode(coded, |byte| text.push(byte)).map(|()| text)
    }

    #[test]
    fn the_examples_of_the_standard_are_read() {
        for (coded, text) in [
            (&[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff][..], "www.example.com"),
            (&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache"),
            (&[0x64, 0x02], "302"),
            (
                &[0x9d, 0x29, 0xad, 0x17, 0x18, 0x63, 0xc7, 0x8f, 0x0b, 0x97, 0xc8, 0xe9, 0xae, 0x82, 0xae, 0x43, 0xd3],
                "https://www.example.com",
            ),
        ] {
            assert_eq!(decoded(coded).as_deref(), Some(text.as_bytes()));
        }
    }

    #[test]
    fn what_does_not_end_as_it_must_is_refused() {
        assert_eq!(decoded(&[0xff]), None, "a whole byte of padding");
        assert_eq!(decoded(&[0x1f, 0xff]), None, "the same after a symbol");
        assert_eq!(decoded(&[0b0001_1000]), None, "padding that is not of ones");
        assert_eq!(decoded(&[0xff; 4]), None, "the end as a word");
    }

    proptest! {
        #[test]
        fn whatever_is_coded_comes_back(text: Vec<u8>) {
            prop_assert_eq!(decoded(&encode(&text)), Some(text));
        }

        #[test]
        fn whatever_comes_no_more_is_made_of_it_than_five_bits_each(coded: Vec<u8>) {
            if let Some(text) = decoded(&coded) {
                prop_assert!(text.len() * 5 <= coded.len() * 8);
            }
        }
    }
}
