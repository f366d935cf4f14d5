"""safeexec as the code executor of other frameworks: one module each, imported on use.

Every adapter takes the sandbox's name (or an Executor), a policy and the sandbox's options; keeps one session for each conversation, known by the
framework's own identity; and passes on results in the form that framework shows its model. Tools stay on the host.
"""
