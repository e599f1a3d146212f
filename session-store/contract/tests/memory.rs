//! The memory store keeps its own contract; and no case is left out of the suite.

use store_contract::memory::Memory;

store_contract::suite!(Memory::new);
