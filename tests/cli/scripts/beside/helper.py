WORD = "from the module beside the script"
