"Likely wrong answers of engine/checkpoint: each is refused by its check."

# %% checkpoint.1 the beginning of a text is no folder
def by_text(folder, name):
    return str((folder / name).resolve()).startswith(str(folder.resolve()))
check_stays_inside(by_text)

# %% checkpoint.1 a name with dots may come back
check_stays_inside(lambda folder, name: ".." not in name and not name.startswith("/"))

# %% checkpoint.1 dots are not followed
check_stays_inside(lambda folder, name: (folder / name).is_relative_to(folder))
