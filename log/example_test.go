package log_test

import (
	"fmt"
	"os"

	"github.com/pulkdb/db/log"
)

func Example() {
	dir, err := os.MkdirTemp("", "log")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)

	open := func() *log.Log {
		l, err := log.Open(log.Options{Dir: dir})
		if err != nil {
			panic(err)
		}
		_, err = l.Replay(log.Marks{}, func(u log.Update, _ log.Position) error {
			fmt.Printf("replay: %v: %s\n", u, u.Payload)
			return nil
		})
		if err != nil {
			panic(err)
		}
		if err := l.Start(); err != nil {
			panic(err)
		}
		return l
	}

	l := open()
	u := log.Update{PID: 1, Version: 1, Kind: log.KindReplace, Payload: []byte("hello")}
	r, err := l.Reserve(log.Fresh, log.UpdateSize(u.PID, u.Version, len(u.Payload)))
	if err != nil {
		panic(err)
	}
	p := r.Append(u)
	if err := l.WaitDurable(log.Fresh, r.Complete(10)); err != nil {
		panic(err)
	}
	u, _, err = l.Read(p, nil)
	fmt.Printf("read: %s, %v\n", u.Payload, err)
	if err := l.Close(); err != nil {
		panic(err)
	}

	l = open()
	fmt.Println("close:", l.Close())
	// Output:
	// read: hello, <nil>
	// replay: replace pid 1 version 1 stamp 10, 5 bytes: hello
	// close: <nil>
}
