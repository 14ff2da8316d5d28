package pagecache_test

import (
	"fmt"

	"github.com/pulkdb/db/pagecache"
)

// concat is a materializer whose pages are strings: a delta is what to add.
type concat struct{}

func (concat) Merge(dst []byte, m *pagecache.Merging) ([]byte, error) {
	for _, f := range m.Fragments {
		dst = append(dst, f.Data...)
	}
	return dst, nil
}

func (concat) Recover([]byte) (pagecache.Recovery, bool) { return pagecache.Recovery{}, false }

func Example() {
	cache, err := pagecache.Open(pagecache.Options{InMemory: true, Materializer: concat{}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cache.Close()

	pid, key, _ := cache.Allocate(nil)
	key, _ = cache.Set(pid, key, []byte("a"))
	key, _ = cache.Merge(pid, key, []byte("b"))
	key, _ = cache.Merge(pid, key, []byte("c"))

	page, seen, _ := cache.Get(pid)
	fmt.Printf("%s %t\n", page, seen == key)
	// Output: abc true
}
