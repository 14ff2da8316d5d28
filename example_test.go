package db_test

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/pulkdb/db"
)

// tempDir returns a directory for an Example and a function that removes it.
func tempDir() (string, func()) {
	dir, err := os.MkdirTemp("", "pulk-example-")
	if err != nil {
		panic(err)
	}
	return dir, func() { os.RemoveAll(dir) }
}

// must is what an Example does with an error.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

func Example() {
	dir, remove := tempDir()
	defer remove()

	store, err := db.Open(dir, nil)
	must(err)
	defer store.Close()

	must(store.Set([]byte("Lauterbrunnen"), []byte("795 m")))
	must(store.Set([]byte("Grindelwald"), []byte("1034 m")))

	value, err := store.Get([]byte("Grindelwald"))
	must(err)
	fmt.Printf("%s\n", value)

	_, err = store.Get([]byte("Atlantis"))
	fmt.Println(errors.Is(err, db.ErrNotFound))
	// Output:
	// 1034 m
	// true
}

func ExampleOpen() {
	dir, remove := tempDir()
	defer remove()

	store, err := db.Open(dir, &db.Options{
		CacheSize:  64 << 20,
		Durability: db.DurabilityPeriodic,
	})
	must(err)
	must(store.Set([]byte("key"), []byte("value")))
	must(store.Close())

	store, err = db.Open(dir, nil) // options may differ
	must(err)
	defer store.Close()
	value, err := store.Get([]byte("key"))
	must(err)
	fmt.Printf("%s\n", value)
	// Output: value
}

func ExampleDB_Scan() {
	store, err := db.Open("", &db.Options{InMemory: true})
	must(err)
	defer store.Close()
	for _, month := range []string{"2025-11", "2025-12", "2026-01", "2026-02"} {
		must(store.Set([]byte(month), []byte("report")))
	}

	it := store.Scan([]byte("2025-12"), []byte("2026-02"))
	for key, value := range it.All() {
		fmt.Printf("%s %s\n", key, value)
	}
	must(it.Err())

	it = store.ScanPrefix([]byte("2025"))
	for key := range it.Backward() {
		fmt.Printf("%s\n", key)
	}
	must(it.Err())
	// Output:
	// 2025-12 report
	// 2026-01 report
	// 2025-12
	// 2025-11
}

func ExampleIterator() {
	store, err := db.Open("", &db.Options{InMemory: true})
	must(err)
	defer store.Close()
	for _, key := range []string{"a", "b", "c", "d"} {
		must(store.Set([]byte(key), nil))
	}

	it := store.Scan(nil, nil)
	defer it.Close()
	for ok := it.SeekGE([]byte("bb")); ok; ok = it.Next() {
		fmt.Printf("%s\n", it.Key())
	}
	must(it.Err())
	// Output:
	// c
	// d
}

func ExampleBatch() {
	store, err := db.Open("", &db.Options{InMemory: true})
	must(err)
	defer store.Close()
	must(store.Set([]byte("account/anna"), []byte("100")))
	must(store.Set([]byte("account/ben"), []byte("20")))

	// Nobody ever sees the money in both accounts, or in none.
	transfer := store.NewBatch()
	must(transfer.Set([]byte("account/anna"), []byte("70")))
	must(transfer.Set([]byte("account/ben"), []byte("50")))
	must(transfer.Commit())

	it := store.ScanPrefix([]byte("account/"))
	for key, value := range it.All() {
		fmt.Printf("%s %s\n", key, value)
	}
	must(it.Err())
	// Output:
	// account/anna 70
	// account/ben 50
}

func ExampleDB_CompareAndSwap() {
	store, err := db.Open("", &db.Options{InMemory: true})
	must(err)
	defer store.Close()

	// increment counts up, whoever else does so at the same time.
	increment := func(key []byte) error {
		var old []byte // nil: the key must be absent
		for {
			n, _ := strconv.Atoi(string(old))
			swapped, current, err := store.CompareAndSwap(key, old, []byte(strconv.Itoa(n+1)))
			if err != nil || swapped {
				return err
			}
			old = current
		}
	}
	for range 3 {
		must(increment([]byte("visits")))
	}
	value, err := store.Get([]byte("visits"))
	must(err)
	fmt.Printf("%s\n", value)
	// Output: 3
}

// readme is the example of README.md.
func readme(dir string) error {
	store, err := db.Open(dir, nil)
	if err != nil {
		return err
	}
	defer store.Close()
	if err := store.Set([]byte("greeting/en"), []byte("hello")); err != nil {
		return err // nil means that it is on disk
	}
	value, err := store.Get([]byte("greeting/en"))
	fmt.Printf("%s, %v\n", value, err) // hello, <nil>
	rows := store.ScanPrefix([]byte("greeting/"))
	for key, value := range rows.All() {
		fmt.Printf("%s = %s\n", key, value)
	}
	return rows.Err()
}

func Example_readme() {
	dir, remove := tempDir()
	defer remove()
	must(readme(dir))
	// Output:
	// hello, <nil>
	// greeting/en = hello
}
