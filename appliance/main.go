// Command init is PID 1 of the appliance; see package boot. Started with the word "spawn" it
// is the small step in which PID 1's right hand becomes the unprivileged daemon.
package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"armarium/appliance/boot"
	"armarium/appliance/console"
)

func main() {
	var err error
	if len(os.Args) > 1 && os.Args[1] == boot.SpawnWord {
		err = boot.Spawn(os.Args[2:])
	} else {
		err = boot.Main(&consoles{})
	}
	fmt.Fprintln(os.Stderr, "init:", err)
	os.Exit(1)
}

// consoles opens the screen and the serial line when their nodes are there. Opening them
// does not make them the controlling terminal: keys typed there must not reach PID 1 as
// signals.
type consoles struct{ console.Console }

func (c *consoles) Open() error {
	var errs []error
	for _, d := range []struct {
		path string
		kind int
	}{{"/dev/tty0", console.Screen}, {"/dev/ttyS0", console.Serial}} {
		f, err := os.OpenFile(d.path, os.O_WRONLY|syscall.O_NOCTTY, 0)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		c.Add(d.kind, f)
	}
	if len(errs) < 2 { // many machines have only one of the two
		return nil
	}
	return errors.Join(errs...)
}
