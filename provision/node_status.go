package main

import "github.com/spf13/cobra"

func statusCommand(o *nodeOptions) *cobra.Command {
	c := tableCommand(o, "status", "status", "Show how the node is")
	c.Long = "Shows the node's summary: who it is, its disks, units, crawls, polls, and what needs attention."
	return c
}
