package main

import "github.com/spf13/cobra"

func keysCommand() *cobra.Command {
	c := group("keys", "Make key pairs and keystores", `A plugin is signed with a private key; nodes trust it when the certificate of that key is in the
keystore that the network publishes.`)
	c.AddCommand(keysNewCommand(), keysTrustCommand())
	return c
}
