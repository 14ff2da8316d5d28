package arena

import "testing"

// A prefetch needs no live object, and may reach behind the memory that is mapped.
func TestPrefetch(t *testing.T) {
	a := New(Options{})
	r := a.Alloc(64)
	a.Prefetch(r, 1)
	a.Prefetch(r, chunkBytes/64+100)
	a.Free(r)
	a.Prefetch(r, 1)
	a.Close()
	a.Prefetch(r, 1)
}
