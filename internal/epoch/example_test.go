package epoch_test

import (
	"fmt"
	"sync/atomic"

	"github.com/pulkdb/db/internal/epoch"
)

func Example() {
	d := epoch.New(func(item uint64) { fmt.Println("reclaimed", item) })

	var current atomic.Uint64
	current.Store(1)

	reader := d.Pin()
	fmt.Println("reader sees", current.Load())

	writer := d.Pin()
	old := current.Swap(2) // out of sight first, then retired
	d.Retire(writer, old)
	writer.Unpin()

	fmt.Println("all reclaimed:", d.Flush())
	reader.Unpin()
	fmt.Println("all reclaimed:", d.Flush())
	// Output:
	// reader sees 1
	// all reclaimed: false
	// reclaimed 1
	// all reclaimed: true
}
