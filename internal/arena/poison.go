package arena

import (
	"unsafe"

	"github.com/pulkdb/db/internal/invariant"
)

// poisonWord fills freed memory in debug builds. As a reference, a length or a
// pointer it is absurd.
const poisonWord = 0xdeadf1ee_deadf1ee

// poison fills n bytes at r. A reader who still looks at them is a data race,
// and is told so by the race detector.
func (a *Arena) poison(r Ref, n int) {
	words := unsafe.Slice((*uint64)(a.Pointer(r)), n/8)
	for i := range words {
		words[i] = poisonWord
	}
}

// checkPoison panics if somebody wrote to n bytes at r since they were freed.
func (a *Arena) checkPoison(r Ref, n int) {
	for _, w := range unsafe.Slice((*uint64)(a.Pointer(r)), n/8) {
		invariant.Check(w == poisonWord, "arena: memory written after Free")
	}
}

func (a *Arena) checkRange(r Ref, off, n int) {
	invariant.Check(r != 0 && r&15 == 0, "arena: bad reference")
	_, id, _ := a.find(r)
	start := int(r - refOf(id))
	size := a.Size(r)
	within := start % size
	if off < 0 || n < 0 || within+off+n > size {
		invariant.Check(false, "arena: range outside the object")
	}
}

func addBytes(p unsafe.Pointer, n int) unsafe.Pointer { return unsafe.Add(p, n) }
