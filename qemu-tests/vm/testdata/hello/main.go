// Hello is the smallest first process: it prints a line on the serial console and waits for
// a word there. "off" turns the machine off; a power button does too when the machine's
// firmware offers one to the kernel.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "hello:", err)
	}
	syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	if err := syscall.Mount("devtmpfs", "/dev", "devtmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	tty, err := os.OpenFile("/dev/ttyS0", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer tty.Close()
	fmt.Fprintln(tty, "hello from process", os.Getpid())
	in := bufio.NewScanner(tty)
	for in.Scan() {
		word := strings.TrimSpace(in.Text())
		if word == "off" {
			fmt.Fprintln(tty, "bye")
			return nil
		}
		fmt.Fprintf(tty, "heard %q\n", word)
	}
	return in.Err()
}
