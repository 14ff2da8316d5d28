package arena_test

import (
	"fmt"

	"github.com/pulkdb/db/internal/arena"
)

func Example() {
	a := arena.New(arena.Options{})
	defer a.Close()

	r := a.Alloc(100)
	copy(a.Bytes(r, 0, 5), "hello")
	a.Word(r, 8).Store(42)

	fmt.Println(string(a.Bytes(r, 0, 5)), a.Word(r, 8).Load())
	fmt.Println(a.Size(r), a.Used())
	a.Free(r)
	fmt.Println(a.Used())
	// Output:
	// hello 42
	// 112 112
	// 0
}
