//! The allocator of our programs: mimalloc, which is made for many small objects.

use std::{
    alloc::{GlobalAlloc, Layout},
    ffi::c_void,
};

use libmimalloc_sys::{
    mi_free, mi_malloc, mi_malloc_aligned, mi_realloc, mi_realloc_aligned, mi_zalloc, mi_zalloc_aligned,
};

/// What mimalloc aligns everything to that is as large (its `MI_MAX_ALIGN_SIZE`).
const NATURAL: usize = 16;

/// mimalloc, asked for an alignment only where that is not given anyway. Asked for one, it often takes more room than is
/// wanted and has a longer way to go, also when the room is given back.
pub struct Allocator;

/// Whether what is of this size is aligned so without being asked for.
fn is_natural(size: usize, align: usize) -> bool {
    align <= NATURAL && align <= size
}

// SAFETY: mimalloc returns null or a block of at least the size that is asked for, which nobody else has until it is
// given back. What is not asked to be aligned is so by nature: blocks are multiples of 8 bytes in size and place, and
// those of 16 bytes and more multiples of 16.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: any size can be asked for, and a layout's alignment is a power of two.
        let block = unsafe { if is_natural(size, align) { mi_malloc(size) } else { mi_malloc_aligned(size, align) } };
        block.cast()
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: as above.
        let block = unsafe { if is_natural(size, align) { mi_zalloc(size) } else { mi_zalloc_aligned(size, align) } };
        block.cast()
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller has the block from here, and gives it back once.
        unsafe { mi_free(block.cast()) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let (block, align): (*mut c_void, usize) = (block.cast(), layout.align());
        // SAFETY: the caller has the block from here and uses what is returned in its place.
        let block = unsafe {
            if is_natural(size, align) { mi_realloc(block, size) } else { mi_realloc_aligned(block, size, align) }
        };
        block.cast()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A block that is filled with a byte.
    struct Block {
        start: *mut u8,
        layout: Layout,
        fill: u8,
    }

    impl Block {
        fn new(layout: Layout, fill: u8, zeroed: bool) -> Self {
            // SAFETY: the layout is not empty.
            let start = unsafe { if zeroed { Allocator.alloc_zeroed(layout) } else { Allocator.alloc(layout) } };
            let mut block = Self { start, layout, fill };
            assert!(!zeroed || block.bytes().iter().all(|byte| *byte == 0));
            block.bytes().fill(fill);
            block
        }

        fn bytes(&mut self) -> &mut [u8] {
            assert!(
                !self.start.is_null() && self.start.addr().is_multiple_of(self.layout.align()),
                "{:?}",
                self.layout
            );
            // SAFETY: the block is ours, and has been written to.
            unsafe { std::slice::from_raw_parts_mut(self.start, self.layout.size()) }
        }

        fn resize(&mut self, size: usize) {
            let kept = size.min(self.layout.size());
            // SAFETY: the block is from here, and the size is neither null nor too large.
            self.start = unsafe { Allocator.realloc(self.start, self.layout, size) };
            self.layout = Layout::from_size_align(size, self.layout.align()).unwrap();
            let fill = self.fill;
            assert!(self.bytes()[..kept].iter().all(|byte| *byte == fill));
            self.bytes().fill(fill);
        }
    }

    impl Drop for Block {
        fn drop(&mut self) {
            let fill = self.fill;
            assert!(self.bytes().iter().all(|byte| *byte == fill), "somebody else wrote to it");
            // SAFETY: the block is from here.
            unsafe { Allocator.dealloc(self.start, self.layout) }
        }
    }

    proptest! {
        #[test]
        fn blocks_are_aligned_and_nobody_elses(
            wanted in prop::collection::vec((1..5000_usize, 0..8_u32, any::<bool>(), 1..5000_usize), 1..100),
        ) {
            let mut blocks: Vec<Block> = Vec::new();
            for (fill, (size, align, zeroed, then)) in wanted.into_iter().enumerate() {
                let layout = Layout::from_size_align(size, 1 << align).unwrap();
                let mut block = Block::new(layout, fill as u8, zeroed);
                if fill % 3 == 0 {
                    block.resize(then);
                }
                blocks.push(block);
                if fill % 5 == 4 {
                    blocks.swap_remove(fill / 5);
                }
            }
        }
    }
}
